# SPDX-License-Identifier: Apache-2.0
"""Shapes that a person draws on an image, and the pixels that they cover.

Coordinates are px of the upright image from its top left corner; the first pixel reaches from 0 to 1. A
pixel belongs to a shape if its centre lies inside, as in ``MaskPolygons`` of the contract.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Point = tuple[float, float]
Box = tuple[int, int, int, int]
"""Left, top, width and height in px of the upright image."""
Pixels = NDArray[np.bool_]
"""(H, W), True for covered pixels."""

MAX_POINTS = 2000
"""Most points of a shape. The page begins a new shape before a stroke has more."""
MAX_SHAPES = 5000
MAX_RADIUS_PX = 4096.0
_PARTS_AT_ONCE = 64
"""Parts of a stroke that are computed at once, which limits the memory."""


class Tool(StrEnum):
    """The ways to draw a shape."""

    BOX = "box"
    POLYGON = "polygon"
    BRUSH = "brush"


class Layer(StrEnum):
    """The meanings of covered pixels."""

    DEFECT = "defect"
    INSPECT = "inspect"
    IGNORE = "ignore"
    PART = "part"


class UnusableShape(ValueError):
    """A shape that a page cannot have sent."""


@dataclass(frozen=True)
class Shape:
    """A shape that adds pixels to a layer, or removes them from it."""

    tool: Tool
    points: tuple[Point, ...]
    """Two opposite corners of a box, the corners of a polygon, or the centres of a brush along its way."""
    layer: Layer = Layer.DEFECT
    radius: float = 0.0
    """Radius of a brush in px."""
    erases: bool = False
    replaces: bool = False
    """True if it takes the place of everything that was drawn before."""

    @classmethod
    def parse(cls, sent: object, size: tuple[int, int]) -> Self:
        """Return a shape that a page sent, moved into the image.

        Args:
            sent: object with the fields of a shape.
            size: width and height of the image in px.

        Raises:
            UnusableShape: if it is not a shape.
        """
        if not isinstance(sent, Mapping):
            raise UnusableShape("a shape is an object with a tool and points")
        try:
            tool, layer = Tool(str(sent["tool"])), Layer(str(sent["layer"]))
            radius = float(sent.get("radius", 0.0))
            points = tuple((float(x), float(y)) for x, y in sent["points"][: MAX_POINTS + 1])
        except (KeyError, TypeError, ValueError) as error:
            raise UnusableShape("a shape has a tool, a layer and points with two numbers each") from error
        least = {Tool.BOX: 2, Tool.POLYGON: 3, Tool.BRUSH: 1}[tool]
        if not least <= len(points) <= (2 if tool is Tool.BOX else MAX_POINTS):
            raise UnusableShape(f"a {tool} with {len(points)} points")
        if not all(math.isfinite(each) for point in points for each in (*point, radius)):
            raise UnusableShape("a number of a shape is not finite")
        if tool is Tool.BRUSH and not 0 < radius <= MAX_RADIUS_PX:
            raise UnusableShape(f"a brush of {radius} px")
        # The centre of a brush may lie outside, while its edge covers pixels.
        margin = radius if tool is Tool.BRUSH else 0.0
        moved = tuple(
            (min(max(x, -margin), size[0] + margin), min(max(y, -margin), size[1] + margin))
            for x, y in points
        )
        erases, replaces = (sent.get(name) is True for name in ("erases", "replaces"))
        return cls(tool, moved, layer, radius, erases, replaces)

    def to_page(self) -> dict[str, object]:
        """Return the shape as ``parse`` takes it."""
        return {
            "tool": self.tool.value,
            "layer": self.layer.value,
            "points": [list(point) for point in self.points],
            "radius": self.radius,
            "erases": self.erases,
            "replaces": self.replaces,
        }

    def box(self, least_px: int = 1) -> Box | None:
        """Return the box around the points in whole px, None if a side is shorter than ``least_px``."""
        spans = []
        for axis in (0, 1):
            low, high = (pick(point[axis] for point in self.points) for pick in (min, max))
            spans.append((int(low), round(high) - int(low)))
        if min(span for _, span in spans) < least_px:
            return None
        return spans[0][0], spans[1][0], spans[0][1], spans[1][1]

    def apply(self, pixels: Pixels) -> None:
        """Set the pixels of the shape, or clear them if it erases."""
        height, width = pixels.shape
        points = np.array(self.points)
        if self.tool is Tool.BOX:
            low, high = _first_from(points.min(axis=0)), _first_from(points.max(axis=0))
            pixels[low[1] : high[1], low[0] : high[0]] = not self.erases
            return
        margin = self.radius if self.tool is Tool.BRUSH else 0.0
        left, top = np.maximum(0, _first_from(points.min(axis=0) - margin) - 1)
        right, bottom = np.minimum((width, height), _first_from(points.max(axis=0) + margin) + 1)
        if left >= right or top >= bottom:
            return
        points = points - (left, top)
        shape = (int(bottom - top), int(right - left))
        if self.tool is Tool.POLYGON:
            covered = _polygon(points, shape)
        else:
            covered = _stroke(points, self.radius, shape)
        pixels[top:bottom, left:right][covered] = not self.erases


@dataclass
class Sketch:
    """The shapes on one image, with a mask that was there before, and the way back."""

    width: int
    """Width of the upright image in px."""
    height: int
    base: Pixels | None = None
    """Pixels of the layer ``DEFECT`` to begin with."""
    _steps: list[Shape | None] = field(default_factory=list)
    """Shapes in the order of drawing. None stands for the removal of everything before."""

    def add(self, shape: Shape) -> None:
        if len(self._steps) < MAX_SHAPES:
            self._steps.append(shape)

    def clear(self) -> None:
        """Remove everything; ``undo`` brings it back."""
        if len(self._steps) < MAX_SHAPES:
            self._steps.append(None)

    def undo(self) -> None:
        """Take the last step back, if there is one."""
        if self._steps:
            self._steps.pop()

    @property
    def is_changed(self) -> bool:
        """True if a step was taken and not taken back."""
        return bool(self._steps)

    @property
    def steps(self) -> tuple[Shape | None, ...]:
        """All steps in their order; None stands for the removal of everything before."""
        return tuple(self._steps)

    @property
    def shapes(self) -> list[Shape]:
        """The shapes since everything was removed or replaced."""
        return [step for step in self._steps[self._begin or 0 :] if step is not None]

    @property
    def _begin(self) -> int | None:
        """Number of the last step that removed or replaced everything; None without one."""
        ends = [at for at, step in enumerate(self._steps) if step is None or step.replaces]
        return ends[-1] if ends else None

    def pixels(self, layer: Layer) -> Pixels:
        """Return the pixels of a layer."""
        if layer is Layer.DEFECT and self.base is not None and self._begin is None:
            pixels = self.base.copy()
        else:
            pixels = np.zeros((self.height, self.width), np.bool_)
        for shape in self.shapes:
            if shape.layer is layer:
                shape.apply(pixels)
        return pixels

    def looks(self) -> Pixels | None:
        """Return the pixels to inspect: those of ``INSPECT``, or all, without those of ``IGNORE``.

        None stands for all pixels, if nothing was drawn.
        """
        ignored, inspected = self.pixels(Layer.IGNORE), self.pixels(Layer.INSPECT)
        if not ignored.any() and not inspected.any():
            return None
        return (inspected if inspected.any() else ~inspected) & ~ignored


def mask_png(pixels: Pixels) -> bytes:
    """Return a mask as a PNG, white where pixels are covered."""
    out = BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * np.uint8(255)).convert("1").save(out, "PNG", optimize=True)
    return out.getvalue()


def overlay_png(pixels: Pixels, longest_px: int) -> bytes:
    """Return a mask as a PNG that is opaque where pixels are covered, reduced to a longer side."""
    alpha = Image.fromarray(pixels.astype(np.uint8) * np.uint8(255))
    alpha.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
    out = BytesIO()
    Image.merge("LA", (Image.new("L", alpha.size, 255), alpha)).save(out, "PNG", optimize=True)
    return out.getvalue()


def _first_from(at: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the first pixels whose centres are not before positions in px."""
    return np.ceil(at - 0.5).astype(np.int64)


def _expand(
    low: NDArray[np.float64], high: NDArray[np.float64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows with centres between ``low`` and ``high``, (N,), each with the number of its span."""
    first = np.clip(_first_from(low), 0, height)
    counts = np.clip(_first_from(high), 0, height) - first
    spans = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[spans] + offsets, spans


def _crossings(
    points: NDArray[np.float64], others: NDArray[np.float64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return row, position and line of each crossing of lines, (N, 2) to (N, 2), with centres of rows."""
    rows, lines = _expand(
        np.minimum(points[:, 1], others[:, 1]), np.maximum(points[:, 1], others[:, 1]), height
    )
    (x, y), (other_x, other_y) = points[lines].T, others[lines].T
    return rows, x + (rows + 0.5 - y) * (other_x - x) / (other_y - y), lines


def _polygon(corners: NDArray[np.float64], shape: tuple[int, int]) -> Pixels:
    """Return the pixels of a polygon, by the rule of even and odd crossings."""
    height, width = shape
    rows, at, _ = _crossings(corners, np.roll(corners, -1, axis=0), height)
    changes = np.zeros((height, width + 1), np.int32)
    np.add.at(changes, (rows, np.clip(_first_from(at), 0, width)), 1)
    return (np.cumsum(changes[:, :width], axis=1) & 1).astype(np.bool_)


def _stroke(way: NDArray[np.float64], radius: float, shape: tuple[int, int]) -> Pixels:
    """Return the pixels within ``radius`` of a way."""
    height, width = shape
    changes = np.zeros((height, width + 1), np.int32)
    starts, ends = way[: max(1, len(way) - 1)], way[1:] if len(way) > 1 else way
    for begin in range(0, len(starts), _PARTS_AT_ONCE):
        part = slice(begin, begin + _PARTS_AT_ONCE)
        rows, low, high = _capsules(starts[part], ends[part], radius, height)
        np.add.at(changes, (rows, np.clip(_first_from(low), 0, width)), 1)
        np.add.at(changes, (rows, np.clip(_first_from(high), 0, width)), -1)
    return np.cumsum(changes[:, :width], axis=1) > 0


def _capsules(
    starts: NDArray[np.float64], ends: NDArray[np.float64], radius: float, height: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the spans of a brush that moved from points to others: two discs and all between them.

    Args:
        starts: (N, 2).
        ends: (N, 2).
        radius: radius of the brush.
        height: number of rows.

    Returns:
        Rows, and begins and ends of their spans in px. A convex part has one span in a row.
    """
    tops = np.minimum(starts[:, 1], ends[:, 1]) - radius
    rows, parts = _expand(tops, np.maximum(starts[:, 1], ends[:, 1]) + radius, height)
    low, high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
    for centres in (starts, ends):
        x, y = centres[parts].T
        reach = radius**2 - (rows + 0.5 - y) ** 2
        half = np.sqrt(np.maximum(reach, 0))
        low = np.where(reach >= 0, np.minimum(low, x - half), low)
        high = np.where(reach >= 0, np.maximum(high, x + half), high)
    moved = ends - starts
    length = np.maximum(np.hypot(*moved.T), 1e-9)[:, None]
    across = np.stack((-moved[:, 1], moved[:, 0]), axis=1) / length * radius
    # The place of each row of a part in the arrays above.
    offsets = np.searchsorted(parts, np.arange(len(starts)))
    first = rows[np.minimum(offsets, max(len(rows) - 1, 0))] if len(rows) else offsets
    for point, other in (
        (starts + across, ends + across),
        (starts - across, ends - across),
        (starts + across, starts - across),
        (ends + across, ends - across),
    ):
        crossed, at, lines = _crossings(point, other, height)
        places = offsets[lines] + crossed - first[lines]
        np.minimum.at(low, places, at)
        np.maximum.at(high, places, at)
    is_covered = low <= high
    return rows[is_covered], low[is_covered], high[is_covered]
