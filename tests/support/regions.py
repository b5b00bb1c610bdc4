# SPDX-License-Identifier: Apache-2.0
"""Factories for regions of defects."""

from blemish.v1 import image_pb2
from blemish_core.localization.defect_region import DefectRegion


def make_region(
    left: int = 2, top: int = 3, width: int = 6, height: int = 5, *, peak_score: float = 9.0
) -> DefectRegion:
    """Return a rectangular region with its peak at the left top corner."""
    right, bottom = left + width - 1, top + height - 1
    return DefectRegion(
        contour=((left, top), (right, top), (right, bottom), (left, bottom)),
        area=float(width * height),
        length=float(max(width, height)),
        peak=(left, top),
        peak_score=peak_score,
        mean_score=peak_score / 2,
    )


def make_region_message(
    left: int = 2, top: int = 3, width: int = 6, height: int = 5
) -> image_pb2.DefectRegion:
    """Return a rectangular region as the server sends it."""
    right, bottom = left + width - 1, top + height - 1
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return image_pb2.DefectRegion(
        box=image_pb2.Region(left=left, top=top, width=width, height=height),
        contour=[image_pb2.Point(x=x, y=y) for x, y in corners],
        area=width * height,
        length=max(width, height),
        peak_score=9.0,
        mean_score=4.5,
        peak=image_pb2.Point(x=left, y=top),
    )
