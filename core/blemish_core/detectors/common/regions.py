# SPDX-License-Identifier: Apache-2.0
"""Search by region: describe part of an image, and locate the same in other images.

A region is described by the direction in which its patches deviate from good ones. The deviations are
whitened, pooled and scored as those of a whole image, see ``embedding``, so the query for a complete image
equals the image's embedding. Another image matches where its patches deviate in that direction and are
about as anomalous.

``tests/benchmarks/bench_regions.py`` measures the method; docs/benchmarks.md has its results.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.base import PatchFeatures
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import InvalidRequest
from blemish_core.serving.embedding import directions, joined, pooled

Similarities = NDArray[np.float32]
"""(rows, columns) over a whole image, 0 to 1: similarity of each patch to a query."""

_SELECTED_SHARE = 0.5
"""Share of a patch that a mask must cover to select it, unless no patch of a part is covered so far."""
# Share of the highest similarity that connected patches need to belong to the match.
_MATCH_SHARE = 0.5


@dataclass(frozen=True)
class RegionQuery:
    """A description of part of an image."""

    embedding: NDArray[np.float32]
    """(D + 1,), embedding of an image that shows this region and nothing worse."""
    direction: NDArray[np.float32]
    """(D,), of length 1 or 0."""
    anomaly_level: float
    """Degree of anomaly from 0 to 1; 0.5 at the threshold."""


@dataclass(frozen=True)
class RegionMatch:
    """The part of an image that is most similar to a query."""

    box: Region
    """Bounding box, in px of the image, of the best patch and connected patches half as similar."""
    similarity: float
    """Similarity of the best patch, 0 to 1."""
    heat: Similarities
    """Similarity of every patch."""


def region_mask(shape: tuple[int, int], region: Region) -> NDArray[np.bool_]:
    """Return a rectangle as a mask of ``shape``.

    Raises:
        InvalidRequest: if the rectangle is empty or exceeds the shape.
    """
    if bounds_error := region.bounds_error(shape):
        raise InvalidRequest(bounds_error, field="region")
    if region.width <= 0 or region.height <= 0:
        raise InvalidRequest("the region has no area; give it a width and a height", field="region")
    mask = np.zeros(shape, bool)
    mask[region.top : region.top + region.height, region.left : region.left + region.width] = True
    return mask


def describe_region(patches: PatchFeatures, mask: NDArray[np.bool_], threshold: float) -> RegionQuery:
    """Describe the masked part of an image.

    Args:
        patches: features of the image.
        mask: (H, W) of the image.
        threshold: pixel threshold of anomaly maps.

    Raises:
        InvalidRequest: if the mask is empty, or covers no patch that the model looks at.
    """
    rows, columns = patches.anomaly.shape
    margin = patches.margin
    grid = (columns + 2 * margin, rows + 2 * margin)
    shares = cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    shares = shares[margin : margin + rows, margin : margin + columns]
    most = float(shares.max())
    if most <= 0:
        raise InvalidRequest(
            "the region or mask covers no patch of the detector; make it larger, or move it away from the "
            "edge",
            field="region",
        )
    chosen = _chosen(np.asarray(shares, np.float32))
    anomaly, deviations = patches.anomaly[chosen], patches.deviations[chosen]  # (P,), (P, D)
    # Only patches that the mask ignores are exactly zero, unless all are.
    if not deviations.any() and patches.deviations.any():
        raise InvalidRequest(
            "the mask of the model ignores the whole region; choose another one", field="region"
        )
    together = pooled(deviations, anomaly, patches.spread)
    # An image scores more or less than its worst patch; the region does so by the same difference.
    score = patches.prediction.score - float(patches.anomaly.max() - anomaly.max())
    direction = directions(together, patches.stages)
    vector = joined(direction, score, patches.score_scale)
    return RegionQuery(vector, direction, float(_level(anomaly.max(), threshold, patches.spread)))


def _chosen(shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the patches (rows, columns) that a mask selects, at least one of each of its parts.

    Args:
        shares: share of each patch that the mask covers.
    """
    chosen = shares >= _SELECTED_SHARE
    count, parts = cv2.connectedComponents((shares > 0).astype(np.uint8), connectivity=8)
    highest = np.array([shares[parts == number].max(initial=0) for number in range(count)])
    small = (highest < _SELECTED_SHARE)[parts] & (parts > 0)
    return np.asarray(chosen | (small & (shares >= highest[parts])))


def locate_region(
    patches: PatchFeatures, shape: tuple[int, int], query: RegionQuery, threshold: float
) -> RegionMatch:
    """Return where an image of ``shape`` (H, W) is most similar to a query."""
    alignment = directions(patches.deviations, patches.stages) @ query.direction
    level = _level(patches.anomaly, threshold, patches.spread)
    similarity = alignment.clip(0, 1) * (1 - np.abs(level - np.float32(query.anomaly_level)))
    heat: Similarities = np.pad(similarity, patches.margin)
    return RegionMatch(_box(heat, shape), float(similarity.max()), heat)


def _level(anomaly: Similarities, threshold: float, spread: float) -> Similarities:
    """Return the degree of anomaly from 0 to 1: a sigmoid, without overflow at either end."""
    level: Similarities = (1 + np.tanh((anomaly - np.float32(threshold)) / np.float32(2 * spread))) / 2
    return level


def _box(heat: Similarities, shape: tuple[int, int]) -> Region:
    rows, columns = heat.shape
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    similar = (heat >= _MATCH_SHARE * heat[row, column]).astype(np.uint8)
    _, parts = cv2.connectedComponents(similar, connectivity=8)
    down, across = np.nonzero(parts == parts[row, column])
    top, bottom = down.min() * shape[0] // rows, -(-(down.max() + 1) * shape[0] // rows)
    left, right = across.min() * shape[1] // columns, -(-(across.max() + 1) * shape[1] // columns)
    return Region(int(left), int(top), int(right - left), int(bottom - top))
