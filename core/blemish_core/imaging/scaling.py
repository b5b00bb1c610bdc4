# SPDX-License-Identifier: Apache-2.0
"""Scaling of 8-bit images, equal to torch's antialiased bilinear interpolation up to rounding.

This module exists because torch first converts every byte of a large camera frame to float, which takes
most of the time. It converts and sums a few rows at a time, while they are in the core's cache.

An output row is a mean of input rows under a triangle filter: the product of a narrow band matrix and the
input. Columns are left to torch, because few pixels remain. ``bench_preparing.py`` compares the two.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_ROWS = 8
"""Output rows per matrix product; see docs/benchmarks.md."""
_CACHED_HEIGHTS = 64


def scaled(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Return float32 (C, *size), 0 to 255, for an image (H, W, C), which need not be contiguous."""
    rows, _ = size
    if len(image) > rows:
        pixels = _scale_rows(image, rows).permute(2, 0, 1)
    else:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
    if pixels.shape[1:] != size:
        pixels = functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    return pixels


def _scale_rows(image: NDArray[np.uint8], rows: int) -> Tensor:
    """Return float32 (rows, W, C) for an image (H, W, C)."""
    height, width, channels = image.shape
    bands = _bands(height, rows)
    floats = np.empty((max(len(band.weights[0]) for band in bands), width, channels), np.float32)
    scaled_rows = torch.empty(rows, width * channels)
    for number, band in enumerate(bands):
        source = floats[: len(band.weights[0])]
        source[...] = image[band.first : band.first + len(source)]
        out = scaled_rows[_ROWS * number : _ROWS * number + len(band.weights)]
        torch.mm(band.weights, torch.from_numpy(source).flatten(1), out=out)
    return scaled_rows.view(rows, width, channels)


@dataclass(frozen=True)
class _Band:
    """Weights of the input rows for some consecutive output rows."""

    first: int
    """First input row."""
    weights: Tensor
    """Float32 (output rows, input rows from ``first`` on); each row sums to 1."""


@lru_cache(_CACHED_HEIGHTS)
def _bands(length: int, size: int) -> tuple[_Band, ...]:
    """Return the bands that scale ``length`` rows down to ``size``."""
    half = np.float32(0.5)
    # Single precision, like torch: the rounding is visible far from the first row.
    step = np.float32(length / size)
    centers = step * (np.arange(size, dtype=np.float32) + half)
    # Input rows that contribute to each output row.
    first = np.maximum((centers - step + half).astype(int), 0)
    after = np.minimum((centers + step + half).astype(int), length)
    bands = []
    for begin in range(0, size, _ROWS):
        block = slice(begin, begin + _ROWS)
        at = np.arange(first[block][0], after[block][-1])
        distance = np.abs(at.astype(np.float32) - centers[block, None] + half) / step
        weights = np.maximum(0, 1 - distance) * ((at >= first[block, None]) & (at < after[block, None]))
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append(_Band(int(at[0]), torch.from_numpy(weights)))
    return tuple(bands)
