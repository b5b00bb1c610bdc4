# SPDX-License-Identifier: Apache-2.0
"""Small pictures of inspected images, for watchers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.heat_overlay import heat_overlay
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.localization import localized

_QUALITY = 80


@dataclass(frozen=True)
class ThumbnailStyle:
    """The size and content of a thumbnail."""

    side_px: int
    """Longer side."""
    with_heat: bool
    """True to draw the anomaly map over the image."""


@dataclass(frozen=True)
class InspectionThumbnail:
    """A picture of an inspected image."""

    event: InspectionEvent
    """Event of the inspection, with regions."""
    style: ThumbnailStyle
    jpeg: bytes


def draw_thumbnails(
    inspection: Inspection, event: InspectionEvent, styles: Iterable[ThumbnailStyle], limits: ImageLimits
) -> list[InspectionThumbnail]:
    """Return a thumbnail of each style. The image is decoded once.

    Raises:
        InvalidImage: if it cannot be decoded, which scoring has done before.
    """
    pixels = inspection.capture.image.pixels(limits, inspection.manifest.white_level)
    if inspection.is_anomalous and inspection.regions is None:
        event = replace(event, regions=localized(inspection, pixels).regions or ())
    return [InspectionThumbnail(event, style, _drawn(inspection, pixels, style)) for style in styles]


def _drawn(inspection: Inspection, pixels: NDArray[np.uint8], style: ThumbnailStyle) -> bytes:
    small = Image.fromarray(pixels)
    small.thumbnail((style.side_px, style.side_px))
    if style.with_heat:
        threshold = inspection.calibration.pixel_threshold
        small = Image.fromarray(
            heat_overlay(np.asarray(small), inspection.prediction.anomaly_map, threshold)
        )
    out = BytesIO()
    small.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
