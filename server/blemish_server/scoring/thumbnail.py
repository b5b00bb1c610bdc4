# SPDX-License-Identifier: Apache-2.0
"""Small pictures of inspected images, for watchers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO

import cv2
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
    small = _shrunk(pixels, style.side_px)
    if style.with_heat:
        anomaly_map, threshold = inspection.prediction.anomaly_map, inspection.calibration.pixel_threshold
        small = heat_overlay(small, anomaly_map, threshold)
    out = BytesIO()
    Image.fromarray(small).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _shrunk(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with a longer side of at most ``side_px``."""
    height, width, _ = pixels.shape
    scale = side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
