# SPDX-License-Identifier: Apache-2.0
"""The shapes defects take: wandering lines and ragged blobs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from blemish_client.demo.surfaces.noise import Field, fractal_noise, pixel_grid, smoothstep, turned

Points = npt.NDArray[np.float64]
"""Points of a line in order, (n, 2), as x and y from the middle of the image in pixels."""


@dataclass(frozen=True)
class Trace:
    """A line as each pixel sees it."""

    distance: Field
    """Pixels to the line; ``reach`` where it is farther than that."""
    along: Field
    """Where on the line the nearest point lies, from 0 to 1."""
    side: Field
    """``distance`` with a sign: on which side of the line the pixel lies."""


def somewhere(rng: np.random.Generator, size: int, margin: float = 0.1) -> tuple[float, float]:
    """Return a point at least ``margin`` image sides from the border, as x and y from the middle."""
    x, y = rng.uniform(-0.5 + margin, 0.5 - margin, 2) * size
    return float(x), float(y)


def wander(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    *,
    bend: float,
    kink: float = 0.0,
    step: float = 0.5,
) -> Points:
    """Return a line of ``length`` pixels that leaves ``start`` in the direction ``heading``.

    Args:
        rng: where the shape comes from.
        start: x and y of the first point.
        heading: in radians.
        length: in pixels.
        bend: spread of the slow turning over the whole line, in radians.
        kink: spread of the sudden turns, some every few pixels, in radians.
        step: pixels from one point to the next.
    """
    count = max(int(length / step), 4)
    along = np.linspace(0, 1, count)
    slow = sum(
        rng.normal(0, bend / k) * np.sin(np.pi * k * along + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)
    )
    corners = max(int(length / 5), 2)
    sudden = rng.normal(0, kink, corners)[np.minimum((along * corners).astype(int), corners - 1)]
    direction = heading + slow + sudden
    steps = step * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    points: Points = np.array(start) + np.cumsum(steps, axis=0)
    return points


def trace(line: Points, size: int, reach: float) -> Trace:
    """See ``line`` from each pixel of a ``size`` px image, up to ``reach`` pixels away."""
    x, y = pixel_grid(size)
    low, high = line.min(axis=0) - reach, line.max(axis=0) + reach
    near = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    pixels = np.stack([x[near], y[near]], axis=1)
    away, nearest = cKDTree(line).query(pixels, distance_upper_bound=reach)
    found = nearest < len(line)
    nearest = np.minimum(nearest, len(line) - 1)
    ahead = np.gradient(line, axis=0)[nearest]
    offset = pixels - line[nearest]
    left = np.sign(ahead[:, 0] * offset[:, 1] - ahead[:, 1] * offset[:, 0])
    away = np.where(found, away, reach)

    distance = np.full((size, size), reach)
    along = np.zeros((size, size))
    side = distance.copy()
    distance[near] = away
    along[near] = nearest / (len(line) - 1)
    side[near] = away * left
    return Trace(distance=distance, along=along, side=side)


def stroke(seen: Trace, width: Field | float, softness: float = 0.7) -> Field:
    """Coverage from 0 to 1 of a line drawn ``width`` pixels wide (a number, or one a pixel)."""
    inside = np.asarray(width) / 2 - seen.distance
    return smoothstep(-softness, softness, inside)


def tapered(seen: Trace, ends: float = 0.25) -> Field:
    """1 along the line, falling to 0 over the share ``ends`` at each end; 0 out of reach."""
    return smoothstep(0, ends, seen.along) * smoothstep(0, ends, 1 - seen.along)


def blob(
    rng: np.random.Generator,
    size: int,
    at: tuple[float, float],
    radius: float,
    *,
    stretch: float = 1.0,
    raggedness: float = 0.25,
    octaves: int = 3,
) -> Field:
    """Depth inside a ragged blob in pixels, negative outside; (size, size).

    Args:
        rng: where the shape comes from.
        size: of the image in pixels.
        at: x and y of its middle.
        radius: mean radius in pixels.
        stretch: length over width.
        raggedness: how far the outline departs from an ellipse, as a share of the radius.
        octaves: of its raggedness; one is a smooth outline.
    """
    x, y = pixel_grid(size)
    x, y = turned(x - at[0], y - at[1], rng.uniform(0, np.pi))
    away = np.hypot(x / np.sqrt(stretch), y * np.sqrt(stretch))
    outline = fractal_noise(rng, size, max(radius * 0.8, 2.0), octaves)
    depth: Field = radius * (1 + raggedness * outline) - away
    return depth
