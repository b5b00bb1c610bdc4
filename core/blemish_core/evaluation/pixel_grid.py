# SPDX-License-Identifier: Apache-2.0
"""The comparison of anomaly maps with masks, in pixels of the frame.

Defects are compared pixel by pixel: a defect of a few pixels in a frame of many megapixels counts in full,
wherever it lies. Other pixels of large frames are compared in cells, which bound time and memory. A cell
counts as many pixels as it has outside of defects. So a defect that covers part of a cell does not enlarge
itself, nor do its own pixels count as false positives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

MAX_CELLS = 1 << 20
"""Most cells of one comparison. In frames of no more pixels, each pixel is a cell."""
_BLOCK_PIXELS = 1 << 20

Shape = tuple[int, int]
"""Rows and columns."""


@dataclass(frozen=True)
class PixelComparison:
    """The scores of a frame's pixels, with the numbers of pixels that have them."""

    outside: NDArray[np.float32]
    """(rows, columns), scores of the cells."""
    outside_pixels: NDArray[np.int64]
    """(rows, columns), number of pixels of each cell that count and are not part of a defect."""
    defect: NDArray[np.float32]
    """(D,), scores of the pixels of defects."""
    overlap: NDArray[np.float64]
    """(D,), 1 / (number of pixels of its region) for each pixel of a defect."""


def comparison_shape(frame: Shape) -> Shape:
    """Return the number of cells of a ``frame``, of the frame's aspect ratio."""
    rows, columns = frame
    share = sqrt(min(1.0, MAX_CELLS / (rows * columns)))
    return max(1, int(rows * share)), max(1, int(columns * share))


def compared(
    anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_], looks: NDArray[np.bool_] | None = None
) -> PixelComparison:
    """Compare the map of a frame, of any shape, with the mask of its defects.

    Args:
        anomaly_map: scores, (rows, columns), of the whole frame.
        mask: (H, W) of the frame, True on defects. Connected pixels, also diagonally, are one region.
        looks: (H, W), True where pixels count; None if all do. Others are not part of a region either.
    """
    if looks is not None:
        mask = mask & looks
    frame = (mask.shape[0], mask.shape[1])
    cells = comparison_shape(frame)
    counted = _counts(np.ones(frame, np.bool_) if looks is None else looks, cells)
    scores, weights = [np.empty(0, np.float32)], [np.empty(0)]
    if mask.any():
        counted = counted - _counts(mask, cells)
        _, regions, figures, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        areas = figures[:, cv2.CC_STAT_AREA].astype(np.float64)
        for rows, block in _scaled_rows(anomaly_map, mask):
            inside = mask[rows]
            scores.append(block[inside])
            weights.append(1 / areas[regions[rows][inside]])
    return PixelComparison(
        scaled_map(anomaly_map, cells), counted, np.concatenate(scores), np.concatenate(weights)
    )


def scaled_map(anomaly_map: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """Return a map of any shape scaled to ``shape``, bilinearly and with antialiasing."""
    if anomaly_map.shape == shape:
        return anomaly_map
    image = PillowImage.fromarray(np.ascontiguousarray(anomaly_map, np.float32))
    return np.asarray(image.resize(shape[::-1], PillowImage.Resampling.BILINEAR), np.float32)


def scaled_mask(mask: NDArray[np.bool_], shape: Shape) -> NDArray[np.bool_]:
    """Return a mask scaled to ``shape`` for a picture; a pixel is set if any of its source pixels is."""
    if mask.shape == shape:
        return mask
    image = PillowImage.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], PillowImage.Resampling.BOX)) > 0


def _scaled_rows(
    anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the rows that contain defects, in blocks, and the map at the size of the frame there."""
    height, width = mask.shape
    image = PillowImage.fromarray(np.ascontiguousarray(anomaly_map, np.float32))
    down, across = image.height / height, image.width
    filled = np.asarray(mask.any(axis=1))
    step = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        if not filled[rows].any():
            continue
        if anomaly_map.shape == mask.shape:
            yield rows, anomaly_map[rows]
            continue
        box = (0.0, top * down, float(across), min(rows.stop * down, float(image.height)))
        part = image.resize((width, rows.stop - top), PillowImage.Resampling.BILINEAR, box=box)
        yield rows, np.asarray(part, np.float32)


def _counts(pixels: NDArray[np.bool_], cells: Shape) -> NDArray[np.int64]:
    """Return the number of pixels (H, W) that are set in each cell, (rows, columns)."""
    if pixels.shape == cells:
        return pixels.astype(np.int64)
    rows, columns = (
        np.arange(count) * length // count for count, length in zip(cells, pixels.shape, strict=True)
    )
    ends = np.append(rows[1:], pixels.shape[0])
    counts = np.empty(cells, np.int64)
    for number, (top, bottom) in enumerate(zip(rows, ends, strict=True)):
        counts[number] = np.add.reduceat(pixels[top:bottom].sum(axis=0, dtype=np.int64), columns)
    return counts
