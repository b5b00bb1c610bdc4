# SPDX-License-Identifier: Apache-2.0
"""The geometry of a model's inputs: the scale of frames, and the tiles of large ones.

Sizes are (height, width) in pixels. "Frame" means the image as received, "input" the scaled image that the
network sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from typing import Protocol

from blemish_core.platform.errors import InvalidImage, InvalidRequest

Size = tuple[int, int]
"""(height, width), px."""

STEP = 16
"""Sides of scaled inputs are multiples of this: the stride of the coarsest features."""
MIN_SIDE = 64
"""Shortest side of an input, px."""
MAX_PIXELS = 16 << 20
"""Largest input, px; larger ones would need gigabytes for their features."""
ANY_SIZE: Size = (-1, -1)
"""Input size of a network that accepts all multiples of ``STEP``."""


class InputGeometry(Protocol):
    """The rule for the size of a network's input."""

    def input_size(self, frame: Size) -> Size:
        """Return the size to which a frame of a size is scaled.

        Raises:
            InvalidImage: if the frame is too large at this scale.
        """


@dataclass(frozen=True)
class Square:
    """Scaling to a square, regardless of the aspect ratio."""

    side: int

    def input_size(self, frame: Size) -> Size:
        return self.side, self.side


@dataclass(frozen=True)
class Scale:
    """Scaling by a constant factor, so that a defect has the same size in all inputs.

    Sides are rounded to multiples of ``STEP``, which changes the aspect ratio by a few percent at most,
    unless a side is shorter than ``MIN_SIDE``.
    """

    factor: float
    """Input pixels per frame pixel."""

    def input_size(self, frame: Size) -> Size:
        height, width = (max(MIN_SIDE, STEP * round(self.factor * side / STEP)) for side in frame)
        if height * width > MAX_PIXELS:
            raise InvalidImage(
                f"the image is {frame[1]} x {frame[0]} px, {width} x {height} at the model's scale of "
                f"{self.factor:.3g}; send at most {MAX_PIXELS >> 20} megapixels at that scale, or a region",
                field="image",
            )
        return height, width


@dataclass(frozen=True)
class Span:
    """A tile along one axis: the pixels it covers, and the part of them that it contributes."""

    begin: int
    end: int
    keep_begin: int
    keep_end: int


def spans(length: int, longest: int, overlap: int) -> list[Span]:
    """Cut ``length`` px into tiles of equal length that overlap by at least ``overlap``.

    No tile is longer than ``longest``. Tiles begin and end at multiples of ``STEP``. Each pixel is kept by
    exactly one tile, so tiles meet without a seam in the middle of their overlap.
    """
    if length <= longest:
        return [Span(0, length, 0, length)]
    count = ceil((length - overlap) / (longest - overlap))
    size = min(longest, STEP * ceil((length + (count - 1) * overlap) / count / STEP))
    begins = [STEP * round(number * (length - size) / (count - 1) / STEP) for number in range(count)]
    meets = [STEP * round((begin + before + size) / 2 / STEP) for before, begin in pairwise(begins)]
    kept = [0, *meets, length]
    return [
        Span(begin, begin + size, kept[number], kept[number + 1]) for number, begin in enumerate(begins)
    ]


def scale_for_defect(smallest_defect_px: float, frame: Size) -> Scale:
    """Return the scale at which a defect of this width can be seen in frames of a size.

    Raises:
        InvalidRequest: if the defect is smaller than a pixel, or larger than the frame.
    """
    if not 1 <= smallest_defect_px <= min(frame):
        raise InvalidRequest(
            f"smallest_defect is {smallest_defect_px:g} px, but must be 1 px to {min(frame)} px, the "
            "shorter side of the training images",
            field="patchcore.smallest_defect",
        )
    return Scale(VISIBLE_PX / smallest_defect_px)


VISIBLE_PX = 2.0
"""Width of the smallest defect in the network's input, px; see docs/benchmarks.md."""


def scale_for_side(shorter_side: int, frames: Sequence[Size]) -> Scale:
    """Return the scale that gives frames of a median size an input of this shorter side."""
    sides = sorted(min(frame) for frame in frames)
    return Scale(shorter_side / sides[len(sides) // 2])


def pixels_of(size: Size) -> int:
    """Return the number of pixels of a size."""
    return size[0] * size[1]


def mean_side(size: Size) -> float:
    """Return the side of the square of the same area, px."""
    return sqrt(pixels_of(size))
