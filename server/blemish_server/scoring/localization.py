# SPDX-License-Identifier: Apache-2.0
"""Outlines of the defects of an inspected image."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits
from blemish_core.localization.defect_region import DefectRegion, encode_mask, region_picture
from blemish_core.localization.find_regions import find_regions
from blemish_core.platform.errors import InvalidImage
from blemish_server.scoring.inspection import Inspection


def localized(
    inspection: Inspection,
    pixels: NDArray[np.uint8],
    *,
    false_reject_rate: float | None = None,
    with_mask: bool = False,
) -> Inspection:
    """Return an inspection with the regions of its image, none for a normal verdict.

    Args:
        inspection: inspection of the image.
        pixels: RGB pixels of the image, (H, W, 3).
        false_reject_rate: target that replaces the one of the calibration.
        with_mask: True to draw the regions as a picture.
    """
    judged = inspection
    if false_reject_rate is not None:
        judged = inspection.at_false_reject_rate(false_reject_rate)
    found: tuple[DefectRegion, ...] = ()
    if judged.is_anomalous:
        calibration, anomaly_map = judged.calibration, inspection.prediction.anomaly_map
        found = find_regions(anomaly_map, pixels, calibration.pixel_threshold, calibration.regions)
    mask = encode_mask(region_picture(found, inspection.shape)) if with_mask else b""
    if part := inspection.capture.image.region:
        found = tuple(each.moved(part.left, part.top) for each in found)
    return replace(inspection, regions=found, mask=mask)


def localized_again(inspection: Inspection, limits: ImageLimits) -> Inspection:
    """Return an inspection with the regions of its image, which is decoded if they are not known."""
    if inspection.regions is not None or not inspection.is_anomalous:
        return inspection
    try:
        return localized(
            inspection, inspection.capture.image.pixels(limits, inspection.manifest.white_level)
        )
    except InvalidImage:  # cannot happen, because the image was decoded for scoring
        return inspection
