# SPDX-License-Identifier: Apache-2.0
"""The outline of a defect, its picture, and its form in the search index."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.image_input import Region

MAX_CORNERS = 64
"""Largest number of corners of a contour."""
MAX_STORED_REGIONS = 8
"""Largest number of regions that an item of the search index keeps."""
_STORED_CORNERS = 16

Point = tuple[int, int]
"""Position (x, y) in px."""


@dataclass(frozen=True)
class DefectRegion:
    """The outline of a defect and its figures, in px of the frame."""

    contour: tuple[Point, ...]
    """Corners in order, 1 to ``MAX_CORNERS``, each the centre of a pixel of the region."""
    area: float
    """Number of pixels within the contour and on it."""
    length: float
    """Longer side of the smallest rotated rectangle around the contour, in px."""
    peak: Point
    """Pixel with the highest score."""
    peak_score: float
    mean_score: float

    @property
    def box(self) -> Region:
        """Smallest upright rectangle that contains the contour."""
        across, down = zip(*self.contour, strict=True)
        left, top = min(across), min(down)
        return Region(left, top, max(across) + 1 - left, max(down) + 1 - top)

    def moved(self, x: int, y: int) -> "DefectRegion":
        """Return the region as part of a larger frame, in which its own frame begins at (x, y)."""
        return DefectRegion(
            tuple((across + x, down + y) for across, down in self.contour),
            self.area,
            self.length,
            (self.peak[0] + x, self.peak[1] + y),
            self.peak_score,
            self.mean_score,
        )


def region_picture(regions: Sequence[DefectRegion], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of ``shape`` (H, W): 255 within the regions, 0 elsewhere."""
    picture = np.zeros(shape, np.uint8)
    for region in regions:
        cv2.fillPoly(picture, [np.array(region.contour, np.int32)], (255,))
    return picture


def encode_mask(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture (H, W) as a PNG of one channel."""
    # The lowest level: regions are large areas of one value, which it packs nearly as well.
    _, data = cv2.imencode(".png", picture, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return data.tobytes()


def regions_to_text(regions: Sequence[DefectRegion]) -> str:
    """Return the first regions as compact JSON for the search index, an empty string for none."""
    if not regions:
        return ""
    rows = [
        [
            round(region.area, 1),
            round(region.length, 1),
            *region.peak,
            float(f"{region.peak_score:.6g}"),
            float(f"{region.mean_score:.6g}"),
            [value for corner in _thinned(region.contour) for value in corner],
        ]
        for region in regions[:MAX_STORED_REGIONS]
    ]
    return json.dumps(rows, separators=(",", ":"))


def regions_from_text(text: str) -> tuple[DefectRegion, ...]:
    """Return the regions of a text by ``regions_to_text``."""
    if not text:
        return ()
    return tuple(
        DefectRegion(tuple(zip(corners[::2], corners[1::2], strict=True)), area, length, (x, y), peak, mean)
        for area, length, x, y, peak, mean, corners in json.loads(text)
    )


def _thinned(contour: tuple[Point, ...]) -> Sequence[Point]:
    """Return a contour with few corners and the same bounding box."""
    if len(contour) <= _STORED_CORNERS:
        return contour
    corners = np.array(contour)
    extremes = {int(index) for index in (*corners.argmin(axis=0), *corners.argmax(axis=0))}
    spread = {round(index) for index in np.linspace(0, len(contour) - 1, _STORED_CORNERS - len(extremes))}
    return [contour[index] for index in sorted(extremes | spread)]
