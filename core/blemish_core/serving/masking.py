# SPDX-License-Identifier: Apache-2.0
"""Masks of model inputs, see ``detectors.common.masking``."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_CHANNELS = 3
_LOOKED_SHARE = 0.5


def with_looks(pixels: Floats, looks: Mask) -> Floats:
    """Append the mask (H, W) of an image, scaled to the input, to the input (3, h, w)."""
    rows, columns = pixels.shape[-2:]
    shares = cv2.resize(looks.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    counted = _counted(np.asarray(shares, np.float32)).astype(np.float32)
    return np.concatenate([pixels, counted[None]])


def split_looks(image: Floats) -> tuple[Floats, Mask | None]:
    """Return the pixels (3, h, w) of an input and its mask, bool (h, w), if it has one."""
    return image[:_CHANNELS], image[_CHANNELS] > 0 if len(image) > _CHANNELS else None


def patch_looks(looks: Mask, grid: tuple[int, int]) -> Mask:
    """Return which patches of a grid (rows, columns) count, bool, for a mask (h, w)."""
    sums = np.pad(looks.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, bottom = _edges(looks.shape[0], grid[0])
    left, right = _edges(looks.shape[1], grid[1])
    seen = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    areas = (bottom - top)[:, None] * (right - left)
    return _counted((seen / areas).astype(np.float32))


def on_grid(values: Floats, looks: Mask | None, grid: tuple[int, int], ignored: float) -> Floats:
    """Return values (P, ...) of the patches that count on their grid, (rows, columns, ...).

    Args:
        values: values of the patches, row by row.
        looks: mask (h, w) of the input; None if all patches count.
        grid: rows and columns of all patches.
        ignored: value of the others.
    """
    if looks is None:
        return values.reshape(*grid, *values.shape[1:])
    full = np.full((*grid, *values.shape[1:]), ignored, np.float32)
    full[patch_looks(looks, grid)] = values
    return full


def hide_ignored(pixels: Floats, looks: Mask) -> Floats:
    """Return a map (h, w) with its lowest value outside of ``looks`` (h, w)."""
    return np.where(looks, pixels, pixels[looks].min())


def _edges(length: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return begin and end of each cell of an axis, as torch's adaptive pooling has them."""
    numbers = np.arange(cells)
    return numbers * length // cells, -(-(numbers + 1) * length // cells)


def _counted(shares: Floats) -> Mask:
    return shares >= min(_LOOKED_SHARE, float(shares.max()))
