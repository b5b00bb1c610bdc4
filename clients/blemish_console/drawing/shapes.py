# SPDX-License-Identifier: Apache-2.0
"""Shapes that a person draws on an image, and the pixels that they cover.

Coordinates are px of the upright image from its top left corner; the first pixel reaches from 0 to 1. A
pixel belongs to a shape if its centre lies inside, as in ``MaskPolygons`` of the contract.
"""

import math
from collections.abc import Iterator, Mapping
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
_Row = tuple[int, float, float]
"""A row of pixels, and the begin and end of the covered span in px."""


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

    @classmethod
    def parse(cls, sent: object, size: tuple[int, int]) -> Self:
        """Return a shape that a page sent, moved into the image.

        Args:
            sent: object with ``tool``, ``layer``, ``points``, ``radius`` and ``erases``.
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
        return cls(tool, moved, layer, radius, sent.get("erases") is True)

    def to_page(self) -> dict[str, object]:
        """Return the shape as ``parse`` takes it."""
        return {
            "tool": self.tool.value,
            "layer": self.layer.value,
            "points": [list(point) for point in self.points],
            "radius": self.radius,
            "erases": self.erases,
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
        for row, low, high in self._rows(height):
            first, end = max(0, math.ceil(low - 0.5)), min(width, math.ceil(high - 0.5))
            if first < end:
                pixels[row, first:end] = not self.erases

    def _rows(self, height: int) -> Iterator[_Row]:
        if self.tool is Tool.BRUSH:
            ends = self.points[1:] or self.points
            for start, end in zip(self.points, ends, strict=False):
                yield from _capsule_rows(start, end, self.radius, height)
            return
        corners = self.points
        if self.tool is Tool.BOX:
            (x, y), (other_x, other_y) = self.points
            corners = ((x, y), (other_x, y), (other_x, other_y), (x, other_y))
        yield from _polygon_rows(corners, height)


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
        """The shapes since everything was removed."""
        return [step for step in self._steps[self._begin :] if step is not None]

    @property
    def _begin(self) -> int:
        return max((number + 1 for number, step in enumerate(self._steps) if step is None), default=0)

    def pixels(self, layer: Layer) -> Pixels:
        """Return the pixels of a layer."""
        if layer is Layer.DEFECT and self.base is not None and self._begin == 0:
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


def _polygon_rows(corners: tuple[Point, ...], height: int) -> Iterator[_Row]:
    """Yield the spans of a polygon by the rule of even and odd crossings."""
    tops = [y for _, y in corners]
    first, last = max(0, math.ceil(min(tops) - 0.5)), min(height, math.ceil(max(tops) - 0.5))
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for row in range(first, last):
        centre = row + 0.5
        crossings = sorted(
            x + (centre - y) * (other_x - x) / (other_y - y)
            for (x, y), (other_x, other_y) in sides
            if (y <= centre) != (other_y <= centre)
        )
        for low, high in zip(crossings[::2], crossings[1::2], strict=True):
            yield row, low, high


def _capsule_rows(start: Point, end: Point, radius: float, height: int) -> Iterator[_Row]:
    """Yield the spans of a brush that moved from one point to another: two discs and all between them."""
    (x, y), (other_x, other_y) = start, end
    length = math.hypot(other_x - x, other_y - y)
    top, bottom = min(y, other_y) - radius, max(y, other_y) + radius
    first, last = max(0, math.ceil(top - 0.5)), min(height, math.ceil(bottom - 0.5))
    if first >= last:
        return
    # The spans of the parts overlap in each row, because the whole is convex.
    spans: dict[int, tuple[float, float]] = {}
    for centre_x, centre_y in ((x, y), (other_x, other_y)):
        for row in range(first, last):
            if (reach := radius**2 - (row + 0.5 - centre_y) ** 2) >= 0:
                half = math.sqrt(reach)
                _extend(spans, row, centre_x - half, centre_x + half)
    if length > 0:
        across_x, across_y = -(other_y - y) / length * radius, (other_x - x) / length * radius
        between = (
            (x + across_x, y + across_y),
            (other_x + across_x, other_y + across_y),
            (other_x - across_x, other_y - across_y),
            (x - across_x, y - across_y),
        )
        for row, low, high in _polygon_rows(between, height):
            _extend(spans, row, low, high)
    for row, (low, high) in spans.items():
        yield row, low, high


def _extend(spans: dict[int, tuple[float, float]], row: int, low: float, high: float) -> None:
    known = spans.get(row, (low, high))
    spans[row] = (min(known[0], low), max(known[1], high))
