# SPDX-License-Identifier: Apache-2.0
"""Images of any size to squares, as torch's bilinear interpolation with antialiasing does it, but sooner.

Each pixel of a small image is a mean under a triangle twice as wide as the step between two of them in the
large one: a matrix with a narrow band for the rows, and one for the columns. Cameras send bytes, and most
of the time goes into making floats of them all and into summing those. So rows are summed a few at a time,
by a matrix product, while the floats are in the core's cache; the columns of what is left are torch's.
``bench_preparing.py`` compares the two.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Of the small image, at once: 4 to 16 did about as well, from 400 px to 5 Mpx; 64 not.
_ROWS = 8
_HEIGHTS_KEPT = 64  # with their bands, of 0.6 MB at most where the input has 256 px


def scaled(image: NDArray[np.uint8], size: int) -> Tensor:
    """Return float32 (C, size, size), 0 to 255, of an image (H, W, C): but for rounding what torch returns.

    The image need be neither contiguous nor writable.
    """
    if len(image) > size:
        pixels = _fewer_rows(image, size).permute(2, 0, 1)
    else:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
    if pixels.shape[1:] != (size, size):
        pixels = functional.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)[0]
    return pixels


def _fewer_rows(image: NDArray[np.uint8], size: int) -> Tensor:
    """Return float32 (size, W, C)."""
    height, width, channels = image.shape
    bands = _bands(height, size)
    floats = np.empty((max(len(band.weights[0]) for band in bands), width, channels), np.float32)
    fewer = torch.empty(size, width * channels)
    for number, band in enumerate(bands):
        rows = floats[: len(band.weights[0])]
        rows[...] = image[band.first : band.first + len(rows)]
        of_these = fewer[_ROWS * number : _ROWS * number + len(band.weights)]
        torch.mm(band.weights, torch.from_numpy(rows).flatten(1), out=of_these)
    return fewer.view(size, width, channels)


@dataclass(frozen=True)
class _Band:
    """What some rows of the small image are made of."""

    first: int
    """Row of the large image."""
    weights: Tensor
    """(rows, rows of the large image from the first one on); each row sums to 1."""


@lru_cache(_HEIGHTS_KEPT)
def _bands(length: int, size: int) -> tuple[_Band, ...]:
    """The bands of ``size`` rows that are made of ``length``, which are more."""
    half = np.float32(0.5)
    # In single precision as torch has it: far from the first row its rounding can be seen.
    step = np.float32(length / size)
    centers = step * (np.arange(size, dtype=np.float32) + half)
    # Of each row the first that counts, and the one after the last.
    first = np.maximum((centers - step + half).astype(int), 0)
    after = np.minimum((centers + step + half).astype(int), length)
    bands = []
    for begin in range(0, size, _ROWS):
        these = slice(begin, begin + _ROWS)
        at = np.arange(first[these][0], after[these][-1])
        away = np.abs(at.astype(np.float32) - centers[these, None] + half) / step
        weights = np.maximum(0, 1 - away) * ((at >= first[these, None]) & (at < after[these, None]))
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append(_Band(int(at[0]), torch.from_numpy(weights)))
    return tuple(bands)
