# SPDX-License-Identifier: Apache-2.0
"""Messages of the regions of defects, which several services share, and of their settings."""

from collections.abc import Iterable

from blemish.v1 import image_pb2, model_pb2
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.localization.settings import DEFAULT_REGIONS, RegionSettings


def regions_to_proto(
    regions: Iterable[DefectRegion], mm_per_px: float | None = None
) -> list[image_pb2.DefectRegion]:
    """Return regions as messages, with sizes in mm if the width of a pixel is known."""
    return [_region_to_proto(region, mm_per_px) for region in regions]


def _region_to_proto(region: DefectRegion, mm_per_px: float | None) -> image_pb2.DefectRegion:
    box = region.box
    message = image_pb2.DefectRegion(
        box=image_pb2.Region(left=box.left, top=box.top, width=box.width, height=box.height),
        contour=[image_pb2.Point(x=x, y=y) for x, y in region.contour],
        area=region.area,
        length=region.length,
        peak_score=region.peak_score,
        mean_score=region.mean_score,
        peak=image_pb2.Point(x=region.peak[0], y=region.peak[1]),
    )
    if mm_per_px is not None:
        message.size.CopyFrom(
            image_pb2.DefectSize(
                left_mm=box.left * mm_per_px,
                top_mm=box.top * mm_per_px,
                width_mm=box.width * mm_per_px,
                height_mm=box.height * mm_per_px,
                area_mm2=region.area * mm_per_px**2,
                length_mm=region.length * mm_per_px,
                peak_x_mm=(region.peak[0] + 0.5) * mm_per_px,
                peak_y_mm=(region.peak[1] + 0.5) * mm_per_px,
            )
        )
    return message


def parse_region_settings(message: model_pb2.RegionSettings) -> RegionSettings:
    """Return the settings of regions in a request.

    Raises:
        InvalidRequest: if one is out of range.
    """
    return RegionSettings(
        pixel_threshold=message.pixel_threshold if message.HasField("pixel_threshold") else None,
        smallest_area=message.smallest_area,
        max_regions=message.max_regions or DEFAULT_REGIONS,
        mm_per_px=message.mm_per_px if message.HasField("mm_per_px") else None,
    ).checked()


def region_settings_to_proto(settings: RegionSettings) -> model_pb2.RegionSettings:
    return model_pb2.RegionSettings(
        pixel_threshold=settings.pixel_threshold,
        smallest_area=settings.smallest_area,
        max_regions=settings.max_regions,
        mm_per_px=settings.mm_per_px,
    )
