# SPDX-License-Identifier: Apache-2.0
"""Scaling of 8-bit images, equal to torch's antialiased bilinear interpolation up to rounding.

This module exists because torch first converts every byte of a large camera frame to float, which takes
most of the time. It converts and sums a few rows at a time, while they are in the core's cache. It needs
NumPy only, because servers may have no torch.

An output row is a mean of input rows under a triangle filter: the product of a narrow band matrix and the
input. Columns follow in the same way. ``bench_preparing.py`` compares the two.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_ROWS = 8
"""Output rows or columns per matrix product; see docs/benchmarks.md."""
_CACHED_HEIGHTS = 64


def scaled(image: NDArray[np.uint8], size: tuple[int, int]) -> Floats:
    """Return float32 (C, *size), 0 to 255, for an image (H, W, C), which need not be contiguous."""
    rows, columns = size
    pixels = image.astype(np.float32) if len(image) == rows else _scale_rows(image, rows)
    if pixels.shape[1] != columns:
        pixels = _scale_columns(pixels, columns)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _scale_rows(image: NDArray[np.uint8], rows: int) -> Floats:
    """Return float32 (rows, W, C) for an image (H, W, C)."""
    height, width, channels = image.shape
    bands = _bands(height, rows)
    floats = np.empty((max(len(band.weights[0]) for band in bands), width, channels), np.float32)
    scaled_rows = np.empty((rows, width * channels), np.float32)
    for number, band in enumerate(bands):
        source = floats[: len(band.weights[0])]
        source[...] = image[band.first : band.first + len(source)]
        out = scaled_rows[_ROWS * number : _ROWS * number + len(band.weights)]
        np.matmul(band.weights, source.reshape(len(source), -1), out=out)
    return scaled_rows.reshape(rows, width, channels)


def _scale_columns(pixels: Floats, columns: int) -> Floats:
    """Return float32 (rows, columns, C) for contiguous pixels (rows, W, C)."""
    rows, width, channels = pixels.shape
    source = pixels.reshape(rows, -1)
    scaled_columns = np.empty((rows, columns * channels), np.float32)
    for number, weights in enumerate(_interleaved(width, columns, channels)):
        first = _bands(width, columns)[number].first * channels
        begin = number * _ROWS * channels
        np.matmul(
            source[:, first : first + len(weights)],
            weights,
            out=scaled_columns[:, begin : begin + weights.shape[1]],
        )
    return scaled_columns.reshape(rows, columns, channels)


@dataclass(frozen=True)
class _Band:
    """Weights of the input rows for some consecutive output rows; columns likewise."""

    first: int
    """First input row."""
    weights: Floats
    """Float32 (output rows, input rows from ``first`` on); each row sums to 1."""


@lru_cache(_CACHED_HEIGHTS)
def _bands(length: int, size: int) -> tuple[_Band, ...]:
    """Return the bands that scale ``length`` rows to ``size``."""
    half = np.float32(0.5)
    # Single precision, like torch: the rounding is visible far from the first row.
    step = np.float32(length / size)
    reach = max(step, np.float32(1))  # of the filter; enlarging interpolates between two rows
    centers = step * (np.arange(size, dtype=np.float32) + half)
    # Input rows that contribute to each output row.
    first = np.maximum((centers - reach + half).astype(int), 0)
    after = np.minimum((centers + reach + half).astype(int), length)
    bands = []
    for begin in range(0, size, _ROWS):
        block = slice(begin, begin + _ROWS)
        at = np.arange(first[block][0], after[block][-1])
        distance = np.abs(at.astype(np.float32) - centers[block, None] + half) / reach
        weights = np.maximum(0, 1 - distance) * ((at >= first[block, None]) & (at < after[block, None]))
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append(_Band(int(at[0]), weights))
    return tuple(bands)


@lru_cache(_CACHED_HEIGHTS)
def _interleaved(length: int, size: int, channels: int) -> tuple[Floats, ...]:
    """Return each band's weights (input values, output values) for rows of pixels with ``channels`` values.

    Most weights are 0, which is still faster than a separation of the channels.
    """
    single = np.eye(channels, dtype=np.float32)
    return tuple(np.kron(band.weights.T, single) for band in _bands(length, size))
