# SPDX-License-Identifier: Apache-2.0
"""Random fields that textures are made of: smooth noise, fractal noise and cells.

Cells after S. Worley, "A Cellular Texture Basis Function", SIGGRAPH 1996.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float64]
"""One number a pixel, (size, size)."""


def smooth_noise(rng: np.random.Generator, size: int, cell: float) -> Field:
    """Return noise (size, size) of mean 0 and deviation 1, with features ``cell`` pixels wide."""
    span = size / cell
    count = int(span) + 5
    coarse = rng.standard_normal((count, count), dtype=np.float32)  # the only type that Pillow resizes
    left, top = rng.uniform(1, 2, 2)
    image = Image.fromarray(coarse).resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + span, top + span)
    )
    return np.asarray(image, np.float64) * 1.3


def fractal_noise(
    rng: np.random.Generator, size: int, cell: float, octaves: int, gain: float = 0.5
) -> Field:
    """Return the sum of ``octaves`` layers of smooth noise, each finer and weaker; deviation 1."""
    weights = gain ** np.arange(octaves)
    layers = [w * smooth_noise(rng, size, cell / 2**k) for k, w in enumerate(weights)]
    total: Field = np.sum(layers, axis=0) / np.sqrt((weights**2).sum())
    return total


def smoothstep(low: float, high: float, x: Field) -> Field:
    """Return 0 up to ``low``, 1 from ``high`` on, and a smooth ramp between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    ramp: Field = t * t * (3 - 2 * t)
    return ramp


def pixel_grid(size: int) -> tuple[Field, Field]:
    """Return pixel coordinates x, y, (size, size) each, with the origin in the middle of the image."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """Return the coordinates ``x, y`` in axes rotated by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


@dataclass(frozen=True)
class Cells:
    """A plane divided into irregular cells, sampled at each pixel; lengths are in cells."""

    centre: Field
    """Distance to the centre of the cell."""
    edge: Field
    """Distance to the nearest border with another cell."""
    value: Field
    """A number from 0 to 1 that belongs to the cell."""


def cells(rng: np.random.Generator, x: Field, y: Field, jitter: float = 0.9) -> Cells:
    """Divide the plane into cells, with one centre in each unit square of the coordinates x, y."""
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    # A margin of one square on each side, because neighbours are looked up too.
    column0, row0 = int(column.min()) - 1, int(row.min()) - 1
    shape = (int(row.max()) - row0 + 2, int(column.max()) - column0 + 2)
    centre_x, centre_y = (
        (0.5 + jitter * (rng.random(shape) - 0.5)) + offset
        for offset in (
            np.arange(column0, column0 + shape[1])[None, :],
            np.arange(row0, row0 + shape[0])[:, None],
        )
    )
    values = rng.random(shape)

    at = (row - row0) * shape[1] + (column - column0)
    around = [dy * shape[1] + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    flat_x, flat_y = centre_x.ravel(), centre_y.ravel()
    first = np.full(x.shape, np.inf)  # squared distance to the nearest centre
    second = first.copy()
    owner, rival = at.copy(), at.copy()
    for step in around:
        candidate = at + step
        away = (flat_x[candidate] - x) ** 2 + (flat_y[candidate] - y) ** 2
        nearer, next_nearer = away < first, away < second
        rival = np.where(nearer, owner, np.where(next_nearer, candidate, rival))
        second = np.where(nearer, first, np.where(next_nearer, away, second))
        owner = np.where(nearer, candidate, owner)
        first = np.where(nearer, away, first)
    apart = np.hypot(flat_x[owner] - flat_x[rival], flat_y[owner] - flat_y[rival])
    edge = (second - first) / (2 * np.maximum(apart, 1e-3))
    return Cells(centre=np.sqrt(first), edge=edge, value=values.ravel()[owner])
