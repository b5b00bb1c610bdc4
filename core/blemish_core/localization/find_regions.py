# SPDX-License-Identifier: Apache-2.0
"""Regions of defects: tight outlines from a blurred anomaly map and the frame itself.

An anomaly map is blurred by the receptive field of its features. A contour at the pixel threshold is
therefore many times larger than the defect. The frame shows more: near a peak of the map, pixels of the
defect differ in colour from those around it. The measure is the Mahalanobis distance from the surrounding
colours (Reed and Yu, IEEE Trans. ASSP 38, 1990), weighted by the map.

``tests/benchmarks/bench_outlines.py`` measures the method; docs/benchmarks.md has its results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.image_input import Region
from blemish_core.localization.defect_region import MAX_CORNERS, DefectRegion, region_picture
from blemish_core.localization.settings import RegionSettings

Scores = NDArray[np.float32]
"""Pixel scores (rows, columns), higher is more anomalous."""
Pixels = NDArray[np.uint8]
"""RGB (H, W, 3)."""

# Contrast of a map: 0 at the level of the image, 1 at the highest score nearby.
_HALF = 0.5
"""Contrast at which the candidate pixels around a peak end."""
_REACH = 12
"""Distance in px of the model's input over which a high score raises others by the blur of the map."""
_MIN_SHARE = 0.3
"""Share of the image's highest contrast below which a weak peak is noise."""
_STRONG = 2.0
"""Contrast from which on a peak is never noise, in units of the threshold's contrast."""
_MIN_EVIDENCE = 0.25
"""Share of the strongest piece's evidence that another piece of the same peak needs."""
_MIN_NEW_SHARE = 0.5
"""Share of a region that no stronger region covers, or it is part of them."""
_SCORE_POWER = 0.5
"""Exponent of the map's contrast as the weight of a pixel."""
_FAR = 6.0
"""Distance in standard deviations from which on pixels differ equally, so that a glint sets no level."""
_MARGIN = 24
"""Width of the surroundings in px of the model's input."""
_INPUT_SIDE = 256
"""Shorter side in px of the inputs for which the widths were chosen."""
_NOISE = 4.0
"""Variance of the noise of a pixel, in square grey levels."""
_LEAST_BLUR = 0.3
"""Deviation in px below which smoothing has no effect."""
_MIN_SURROUNDINGS = 50
"""Fewest pixels from which the surrounding colours are estimated."""
_MAX_SURROUNDINGS = 8192
"""Most pixels from which they are estimated."""
_MAX_CROP = 1 << 20
"""Most pixels of a part of the frame that are examined in full resolution."""
_SAMPLE = 1 << 16
_MAX_PEAKS = 64


@dataclass(frozen=True)
class _Peak:
    """A part of the map above the threshold, in px of the map."""

    left: int
    top: int
    width: int
    height: int
    label: int
    score: float
    """Highest pixel score of the part."""


def find_regions(
    anomaly_map: Scores, frame: Pixels, pixel_threshold: float, settings: RegionSettings
) -> tuple[DefectRegion, ...]:
    """Return the regions of an anomalous image, highest peak first, at least one.

    Args:
        anomaly_map: map of any shape that covers the whole frame. Values that are not finite count as the
            lowest finite value.
        frame: pixels of the frame.
        pixel_threshold: pixel score above which a region begins. If no pixel exceeds it, the highest
            peak is outlined.
        settings: limits of the regions.
    """
    scores = _finite(anomaly_map)
    normal = _normal_level(scores)
    labels, peaks = _peaks(scores, pixel_threshold, normal)
    found = [region for peak in peaks for region in _outlines(scores, labels, peak, normal, frame)]
    found.sort(key=lambda region: region.peak_score, reverse=True)
    first, *others = _distinct(found)
    return (first, *(each for each in others if each.area >= settings.smallest_area))[
        : settings.max_regions
    ]


def _distinct(regions: Sequence[DefectRegion]) -> list[DefectRegion]:
    """Return the regions without those that earlier ones cover: neighbouring peaks can share a defect."""
    kept: list[DefectRegion] = []
    for region in regions:
        box = region.box
        shape = box.height, box.width
        own = region_picture([region.moved(-box.left, -box.top)], shape) > 0
        near = [other.moved(-box.left, -box.top) for other in kept if _overlap(other.box, box)]
        if (own & (region_picture(near, shape) == 0)).sum() >= _MIN_NEW_SHARE * own.sum():
            kept.append(region)
    return kept


def _overlap(one: Region, other: Region) -> bool:
    across = one.left < other.left + other.width and other.left < one.left + one.width
    down = one.top < other.top + other.height and other.top < one.top + one.height
    return across and down


def _finite(anomaly_map: Scores) -> Scores:
    known = np.isfinite(anomaly_map)
    if known.all():
        return np.ascontiguousarray(anomaly_map, np.float32)
    lowest = anomaly_map[known].min() if known.any() else 0.0
    return np.where(known, anomaly_map, lowest).astype(np.float32)


def _normal_level(scores: Scores) -> float:
    """Return the score of most of the image."""
    step = max(1, scores.size // _SAMPLE)
    return float(np.median(scores.ravel()[::step]))


def _peaks(scores: Scores, threshold: float, normal: float) -> tuple[NDArray[np.int32], list[_Peak]]:
    """Return the connected parts above the threshold: their labels (rows, columns), and the parts."""
    highest = float(scores.max())
    level = threshold if highest > threshold else normal + (highest - normal) * _HALF
    above = (scores > level) | (scores >= highest)
    count, found, boxes, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    labels = np.asarray(found, np.int32)
    highest_scores = np.full(count, -np.inf, np.float32)
    np.maximum.at(highest_scores, labels[above], scores[above])
    parts = [
        _Peak(int(left), int(top), int(width), int(height), number, float(score))
        for number, (score, (left, top, width, height, _)) in enumerate(
            zip(highest_scores[1:], boxes[1:], strict=True), start=1
        )
    ]
    parts.sort(key=lambda part: part.score, reverse=True)
    if highest <= threshold:
        return labels, parts[:1]
    weakest = min(_MIN_SHARE * (highest - normal), _STRONG * max(threshold - normal, 0.0))
    return labels, [part for part in parts if part.score - normal >= weakest][:_MAX_PEAKS]


@dataclass(frozen=True)
class _Crop:
    """The part of the frame around a peak, and the map there, both in work px."""

    left: int
    top: int
    step: int
    """Size of a work px in px of the frame."""
    pixels: NDArray[np.float32]
    """Smoothed colours (h, w, 3)."""
    scores: Scores
    """(h, w)."""
    seed: NDArray[np.bool_]
    """(h, w), the part above the threshold."""


def _outlines(
    scores: Scores, labels: NDArray[np.int32], peak: _Peak, normal: float, frame: Pixels
) -> Iterator[DefectRegion]:
    """Yield the regions around one peak."""
    crop = _crop(scores, labels, peak, frame)
    px = _scale(scores.shape, frame) / crop.step
    contrast, near_top = _contrasts(crop, normal, px)
    candidates = _connected_to((contrast >= _HALF) & (crop.seed | near_top), crop.seed)
    evidence = _evidence(crop, contrast, candidates)
    found = (evidence >= _HALF * evidence.max()).astype(np.uint8)
    width = 2 * max(1, round(px)) + 1
    found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((width, width), np.uint8))
    count, pieces, boxes, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    sums = np.bincount(pieces.ravel(), evidence.ravel(), minlength=count)
    sums[0] = 0
    for number in np.flatnonzero(sums >= max(_MIN_EVIDENCE * sums.max(), 1e-12)):
        yield _region(crop, pieces == number, boxes[number], evidence, frame.shape[:2])


def _contrasts(crop: _Crop, normal: float, px: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the contrast (h, w) of each pixel, and whether its score is near the highest of the peak.

    Contrasts are relative to the highest score within reach. So weaker parts of a broad defect have high
    contrast, but not the blur around a strong one.

    Args:
        crop: part of the map.
        normal: score of most of the image.
        px: size of a px of the model's input in work px.
    """
    top_score = float(crop.scores[crop.seed].max())
    lift = np.maximum(crop.scores - normal, 0)
    if top_score <= normal:
        highest = crop.scores >= top_score
        return highest.astype(np.float32), highest
    width = 2 * max(1, round(_REACH * px)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    nearby = np.asarray(cv2.dilate(lift, disc), np.float32)
    contrast = (lift / np.maximum(nearby, np.finfo(np.float32).tiny)).astype(np.float32)
    return contrast, lift >= _HALF * (top_score - normal)


def _crop(scores: Scores, labels: NDArray[np.int32], peak: _Peak, frame: Pixels) -> _Crop:
    (rows, columns), (height, width) = scores.shape, frame.shape[:2]
    down, across = height / rows, width / columns
    scale = _scale(scores.shape, frame)
    margin = round(_MARGIN * scale)
    left, top = max(0, int(peak.left * across) - margin), max(0, int(peak.top * down) - margin)
    right = min(width, int((peak.left + peak.width) * across) + 1 + margin)
    bottom = min(height, int((peak.top + peak.height) * down) + 1 + margin)
    pixels = (right - left) * (bottom - top)
    step = max(1, int(scale / 2), int(np.ceil((pixels / _MAX_CROP) ** 0.5)))
    size = max(1, (right - left) // step), max(1, (bottom - top) // step)
    colours = np.ascontiguousarray(frame[top:bottom, left:right]).astype(np.float32)
    if step > 1:
        colours = np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_AREA), np.float32)
    if scale / step > _LEAST_BLUR:
        colours = np.asarray(cv2.GaussianBlur(colours, (0, 0), scale / step), np.float32)
    # Centres of work px in px of the map.
    x = ((np.arange(size[0], dtype=np.float32) + 0.5) * step + left) / across - 0.5
    y = ((np.arange(size[1], dtype=np.float32) + 0.5) * step + top) / down - 0.5
    grid = np.broadcast_to(x, size[::-1]).copy(), np.broadcast_to(y[:, None], size[::-1]).copy()
    part = np.asarray(
        cv2.remap(scores, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    nearest = np.rint(y).astype(int).clip(0, rows - 1)[:, None], np.rint(x).astype(int).clip(0, columns - 1)
    seed = labels[nearest] == peak.label
    if not seed.any():  # a part smaller than a work px
        row = min(int((peak.top * down - top) / step), size[1] - 1)
        seed[max(row, 0), min(max(int((peak.left * across - left) / step), 0), size[0] - 1)] = True
    return _Crop(left, top, step, colours.reshape(*size[::-1], 3), part, seed)


def _scale(shape: tuple[int, ...], frame: Pixels) -> float:
    """Return the size of a px of the model's input in px of the frame, as far as the map shows it."""
    height, width = frame.shape[:2]
    of_map = min(height / shape[0], width / shape[1])
    return float(max(min(of_map, min(height, width) / _INPUT_SIDE), 1e-3))


def _connected_to(candidates: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected parts of the candidates that touch the seed, or the seed if none does."""
    _, labels = cv2.connectedComponents(candidates.astype(np.uint8), connectivity=8)
    touched = np.unique(labels[seed & candidates])
    return np.isin(labels, touched) if len(touched) else seed


def _evidence(
    crop: _Crop, contrast: NDArray[np.float32], candidates: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return how much each pixel (h, w) looks like a defect, 0 outside the candidates."""
    weight = contrast[candidates] ** _SCORE_POWER
    evidence = np.zeros(contrast.shape, np.float32)
    evidence[candidates] = weight
    around = np.flatnonzero(contrast.ravel() < _HALF)
    if len(around) < _MIN_SURROUNDINGS:
        return evidence
    surroundings = crop.pixels.reshape(-1, 3)[around[:: len(around) // _MAX_SURROUNDINGS + 1]]
    centred = crop.pixels[candidates] - surroundings.mean(axis=0)
    inverse = np.linalg.inv(np.cov(surroundings.T) + _NOISE * np.eye(3)).astype(np.float32)
    distance = np.sqrt(((centred @ inverse) * centred).sum(axis=1).clip(0))
    weighted = np.minimum(distance, _FAR) * weight
    if weighted.max() > 0:
        evidence[candidates] = weighted
    return evidence


def _region(
    crop: _Crop,
    piece: NDArray[np.bool_],
    bounds: NDArray[np.int32],
    evidence: NDArray[np.float32],
    frame_shape: tuple[int, ...],
) -> DefectRegion:
    left, top, width, height = map(int, bounds[:4])
    part = slice(top, top + height), slice(left, left + width)
    inside = piece[part]
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = _simplified(np.asarray(max(contours, key=len), np.int32).reshape(-1, 2))
    filled = np.zeros(inside.shape, np.uint8)
    cv2.fillPoly(filled, [corners], (1,))
    scores = crop.scores[part][inside]
    row, column = np.unravel_index(int(np.where(inside, evidence[part], -1).argmax()), inside.shape)

    def in_frame(x: float, y: float) -> tuple[int, int]:
        # The centre of a work px is that of its middle px of the frame.
        across = crop.left + int((left + x) * crop.step + (crop.step - 1) / 2)
        down = crop.top + int((top + y) * crop.step + (crop.step - 1) / 2)
        return min(across, frame_shape[1] - 1), min(down, frame_shape[0] - 1)

    _, (one, other), _ = cv2.minAreaRect(corners.astype(np.float32))
    return DefectRegion(
        contour=tuple(in_frame(x, y) for x, y in corners.tolist()),
        area=float(filled.sum()) * crop.step**2,
        length=(max(one, other) + 1) * crop.step,
        peak=in_frame(int(column), int(row)),
        peak_score=float(scores.max()),
        mean_score=float(scores.mean()),
    )


def _simplified(contour: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a polygon (N, 2) of at most ``MAX_CORNERS`` corners close to a contour (M, 2)."""
    tolerance_px = 0.5
    corners = contour
    while len(corners) > MAX_CORNERS or tolerance_px < 1:
        approximated = cv2.approxPolyDP(contour, tolerance_px, closed=True)
        corners = np.asarray(approximated, np.int32).reshape(-1, 2)
        tolerance_px *= 1.5
    return corners
