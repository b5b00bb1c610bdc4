# SPDX-License-Identifier: Apache-2.0
"""Polygons in a reference image's pixels, and their conversion to a mask.

A point is (x, y) in px from the top left corner of the image, so that the first pixel reaches from 0 to 1.
A pixel belongs to a polygon if its center lies inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits, check_size
from blemish_core.platform.errors import InvalidRequest

MAX_POINTS = 2000
"""Most points of all polygons of a mask together."""

Polygon = NDArray[np.float64]
"""Points (N, 2), x and y. The last one is joined to the first."""


@dataclass(frozen=True)
class MaskDrawing:
    """The areas that a model includes and ignores, in px of a reference image."""

    width: int
    """Width of the reference image, in px."""
    height: int
    """Height of the reference image, in px."""
    include: Sequence[Polygon] = ()
    """Areas to look at; the whole image if there are none."""
    ignore: Sequence[Polygon] = ()
    """Areas to leave out, also where they overlap with included ones."""

    def rasterized(self, limits: ImageLimits, field: str) -> NDArray[np.bool_]:
        """Return the mask (H, W), True where the model looks.

        Raises:
            InvalidImage: if the size of the reference image is outside the limits.
            InvalidRequest: if there are too many polygons or points, or a polygon leaves the image, crosses
                itself or has no area; the error names ``field``.
        """
        check_size(self.width, self.height, limits, field=field, noun="mask")
        named = [("include", self.include), ("ignore", self.ignore)]
        points = sum(len(polygon) for _, polygons in named for polygon in polygons)
        if not 0 < points <= MAX_POINTS:
            raise InvalidRequest(
                f"the polygons of the mask have {points} points; send 1 to {MAX_POINTS}, or a PNG",
                field=field,
            )
        for name, polygons in named:
            for number, polygon in enumerate(polygons, start=1):
                if reason := self._error(_opened(polygon)):
                    raise InvalidRequest(f"polygon {number} of {name} {reason}", field=f"{field}.{name}")
        shape = (self.height, self.width)
        looks = np.zeros(shape, np.bool_) if self.include else np.ones(shape, np.bool_)
        for polygon in self.include:
            looks |= _filled(polygon, shape)
        for polygon in self.ignore:
            looks &= ~_filled(polygon, shape)
        return looks

    def _error(self, polygon: Polygon) -> str:
        """Return the end of a sentence about an invalid polygon, or an empty string."""
        if len(polygon) < 3:
            return f"has {len(polygon)} points; send at least 3"
        size = (self.width, self.height)
        outside = ~(np.isfinite(polygon) & (polygon >= 0) & (polygon <= size)).all(axis=1)
        if outside.any():
            x, y = polygon[outside][0]
            return (
                f"has the point ({x:g}, {y:g}), but the image is {size[0]} x {size[1]} px; move it "
                "into the image"
            )
        if (crossing := _crossing(polygon)) is not None:
            return (
                f"crosses or touches itself at its sides {crossing[0] + 1} and {crossing[1] + 1}; divide "
                "it into several"
            )
        return ""


def _opened(polygon: Polygon) -> Polygon:
    """Return a polygon without a last point that repeats the first one."""
    closed = len(polygon) > 1 and (polygon[0] == polygon[-1]).all()
    return polygon[:-1] if closed else polygon


def _crossing(polygon: Polygon) -> tuple[int, int] | None:
    """Return two sides of a polygon that meet where they should not, or None."""
    starts, ends = polygon, np.roll(polygon, -1, axis=0)
    count = len(polygon)
    for side in range(count):
        others = np.arange(side + 1, count)
        if (starts[side] == ends[side]).all():
            return side, (side + 1) % count
        meets = _meets(starts[side], ends[side], starts[others], ends[others])
        # Neighbours share one point by design. They overlap if they run in the same direction from there.
        if side + 1 < count:
            meets[0] = _folds_back(ends[side], starts[side], ends[side + 1])
        if side == 0:
            meets[-1] = _folds_back(starts[0], ends[0], starts[-1])
        if meets.any():
            return side, int(others[np.argmax(meets)])
    return None


def _folds_back(shared: Polygon, one: Polygon, other: Polygon) -> bool:
    """Return True if two sides from a shared point run in the same direction."""
    first, second = one - shared, other - shared
    return bool(first[0] * second[1] == first[1] * second[0] and first @ second > 0)


def _meets(begin: Polygon, end: Polygon, starts: Polygon, ends: Polygon) -> NDArray[np.bool_]:
    """Return which segments (N, 2) to (N, 2) have a point in common with one segment."""
    first, second = _turn(begin, end, starts), _turn(begin, end, ends)
    third, fourth = _turn(starts, ends, begin), _turn(starts, ends, end)
    cross = (first * second < 0) & (third * fourth < 0)
    for turn, point, low, high in (
        (first, starts, np.minimum(begin, end), np.maximum(begin, end)),
        (second, ends, np.minimum(begin, end), np.maximum(begin, end)),
        (third, begin, np.minimum(starts, ends), np.maximum(starts, ends)),
        (fourth, end, np.minimum(starts, ends), np.maximum(starts, ends)),
    ):
        cross |= (turn == 0) & ((point >= low) & (point <= high)).all(axis=-1)
    return cross


def _turn(begin: Polygon, end: Polygon, points: Polygon) -> NDArray[np.float64]:
    """Return the sign of the turn from a segment to points, 0 on its line."""
    along, away = end - begin, points - begin
    return np.sign(along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0])


def _filled(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (H, W) whose centers lie inside a polygon, by the even-odd rule."""
    height, width = shape
    toggles = np.zeros((height, width + 1), np.bool_)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = sorted((y0, y1))
        rows = np.arange(int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5)))
        crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)
        toggles[rows, columns] ^= True  # one crossing a row, so no row occurs twice
    return np.logical_xor.accumulate(toggles, axis=1)[:, :width]
