# SPDX-License-Identifier: Apache-2.0
"""Search by a part of an image: what is in it, where another image has the same, and how alike that is.

A spot is described by the direction in which its patches deviate from good ones, whitened, pooled and
scored as a whole image's are (``embedding``): a part that is all of the image has the image's embedding.
Another image has the spot where its patches deviate in that direction and are as anomalous, or as little.

Measured in ``tests/benchmarks/bench_regions.py``, the table in ``docs/benchmarks.md``.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from blemish_core.detectors.base import PatchFeatures
from blemish_core.detectors.common.embedding import joined, pooled
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import InvalidRequest

Heat = NDArray[np.float32]
"""(rows, columns) over all of an image, 0 to 1: how alike each patch is to a spot."""

# Of the hottest patch: what is as hot and connected to it belongs to the match.
_SAME_MATCH = 0.5


@dataclass(frozen=True)
class RegionQuery:
    """What is in a part of an image."""

    embedding: NDArray[np.float32]
    """(D + 1,), as of an image that shows this and nothing worse."""
    direction: NDArray[np.float32]
    """(D,), of length 1 or 0."""
    anomalous: float
    """0 to 1: how surely it is none of a good surface; 0.5 at the threshold."""


@dataclass(frozen=True)
class RegionMatch:
    """Where an image is like a spot."""

    box: Region
    """Around the patch most alike and those connected to it that are half as much, px of the image."""
    similarity: float
    """Of the patch most alike, 0 to 1."""
    heat: Heat


def region_mask(shape: tuple[int, int], region: Region) -> NDArray[np.bool_]:
    """Return a rectangle as a mask of ``shape``.

    Raises:
        InvalidRequest: if it is empty or not within.
    """
    if bounds_error := region.bounds_error(shape):
        raise InvalidRequest(bounds_error, field="region")
    if region.width <= 0 or region.height <= 0:
        raise InvalidRequest("the region has no area: give it a width and a height", field="region")
    mask = np.zeros(shape, bool)
    mask[region.top : region.top + region.height, region.left : region.left + region.width] = True
    return mask


def describe_region(look: PatchFeatures, mask: NDArray[np.bool_], threshold: float) -> RegionQuery:
    """Describe what is under ``mask``, (H, W) of the image that was looked at.

    Args:
        look: at that image.
        mask: what is meant.
        threshold: the pixel of an anomaly map that good images hardly ever exceed.

    Raises:
        InvalidRequest: if nothing is under it, or nothing that the detector sees.
    """
    rows, columns = look.anomaly.shape
    grid = (columns + 2 * look.margin, rows + 2 * look.margin)
    shares = cv2.resize(mask.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    shares = shares[look.margin : look.margin + rows, look.margin : look.margin + columns]
    most = float(shares.max())
    if most <= 0:
        raise InvalidRequest(
            "the region or mask holds nothing that the detector sees: make it larger, or move it away from "
            "the edge",
            field="region",
        )
    chosen = torch.from_numpy(shares >= min(0.5, most))
    anomaly, deviations = look.anomaly[chosen], look.deviations[chosen]  # (P,), (P, D)
    together = pooled(deviations[None], anomaly[None], look.spread)
    # What the image scores above its worst patch, or below it, the spot does above or below its own.
    score = look.prediction.score - float(look.anomaly.max() - anomaly.max())
    direction = functional.normalize(together, dim=1)
    vector = joined(direction, torch.tensor([score]), look.score_scale)
    level = torch.sigmoid((anomaly.max() - threshold) / look.spread)
    return RegionQuery(vector[0].numpy(), direction[0].numpy(), float(level))


def locate_region(
    look: PatchFeatures, shape: tuple[int, int], sought: RegionQuery, threshold: float
) -> RegionMatch:
    """Say where an image of ``shape`` (H, W) is like a spot."""
    alike = functional.normalize(look.deviations, dim=-1) @ torch.from_numpy(sought.direction)
    level = torch.sigmoid((look.anomaly - threshold) / look.spread)
    heat = alike.clamp(0, 1) * (1 - (level - sought.anomalous).abs())
    whole: Heat = np.pad(heat.numpy(), look.margin)
    return RegionMatch(_box(whole, shape), float(heat.max()), whole)


def _box(heat: Heat, shape: tuple[int, int]) -> Region:
    rows, columns = heat.shape
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    hot = (heat >= _SAME_MATCH * heat[row, column]).astype(np.uint8)
    _, parts = cv2.connectedComponents(hot, connectivity=8)
    down, across = np.nonzero(parts == parts[row, column])
    top, bottom = down.min() * shape[0] // rows, -(-(down.max() + 1) * shape[0] // rows)
    left, right = across.min() * shape[1] // columns, -(-(across.max() + 1) * shape[1] // columns)
    return Region(int(left), int(top), int(right - left), int(bottom - top))
