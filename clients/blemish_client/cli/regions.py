# SPDX-License-Identifier: Apache-2.0
"""Regions of defects as one line of text."""

from collections.abc import Sequence

from blemish.v1.image_pb2 import DefectRegion

_LISTED = 4


def regions_line(regions: Sequence[DefectRegion]) -> str:
    """Return number, size and position of regions, an empty string for none.

    Sizes are in mm if the model has a scale: ``2 regions: 14 x 9 px at (120, 48), 6 x 5 px at (3, 4)``.
    """
    if not regions:
        return ""
    more = len(regions) - _LISTED
    return (
        f"{len(regions)} region{'' if len(regions) == 1 else 's'}: "
        + ", ".join(_size(region) for region in regions[:_LISTED])
        + (f" and {more} more" if more > 0 else "")
    )


def _size(region: DefectRegion) -> str:
    box = region.box
    place = f"({box.left}, {box.top})"
    if region.HasField("size"):
        return f"{region.size.width_mm:.2f} x {region.size.height_mm:.2f} mm at {place} px"
    return f"{box.width} x {box.height} px at {place}"
