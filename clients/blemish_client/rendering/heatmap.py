# SPDX-License-Identifier: Apache-2.0
"""Heatmaps: an anomaly map over its image, with the regions of defects outlined."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from blemish.v1.image_pb2 import DefectRegion
from blemish_client.rendering.colours import Colour, heat
from blemish_client.rendering.outlines import region_mask
from blemish_client.rendering.text import with_caption

_WHITE: Colour = (255, 255, 255)
_MAX_OPACITY = 0.72
_VISIBLE_FROM = 0.8  # fraction of the way to the threshold


def heatmap(
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    threshold: float,
    *,
    regions: Sequence[DefectRegion] | None = None,
    region_size: tuple[int, int] | None = None,
    caption: str = "",
) -> Image.Image:
    """Draw an anomaly map over its image.

    Pixels below the threshold are hardly coloured. The scale extends at least as far above the threshold as
    below it, so that a good image shows no strong colours.

    Args:
        image: image that defines the size of the result. A caption adds a strip below it.
        anomaly_map: pixel scores (height, width), of any size.
        threshold: pixel score in the middle of the colour scale.
        regions: regions to outline. None outlines the pixels above the threshold.
        region_size: width and height of the image in px of the regions, by default those of ``image``.
        caption: one line of text.
    """
    scores = _resize(anomaly_map, image.size)
    lowest = min(float(anomaly_map.min()), threshold)
    highest = max(float(anomaly_map.max()), 2 * threshold - lowest)
    level = (scores - lowest) / max(highest - lowest, 1e-12)
    level = level.clip(0.0, 1.0)
    at_threshold = (threshold - lowest) / max(highest - lowest, 1e-12)

    photo = np.asarray(image.convert("RGB"), dtype=np.float64)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    calm = 0.45 * photo + 0.55 * grey
    ramp = ((level - _VISIBLE_FROM * at_threshold) / (1 - _VISIBLE_FROM * at_threshold)).clip(0.0, 1.0)
    opacity = (_MAX_OPACITY * ramp**0.7)[..., None]
    mixed = calm * (1 - opacity) + heat(level) * opacity
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    if regions is None:
        outlined = scores > threshold
    else:
        outlined = region_mask(regions, region_size or image.size, image.size)
    picture = outline(picture, outlined)
    return with_caption(picture, caption) if caption else picture


def outline(picture: Image.Image, region: NDArray[np.bool_], colour: Colour = _WHITE) -> Image.Image:
    """Draw the edge of a region, a mask (height, width) of the size of ``picture``, with a dark rim."""
    mask = Image.fromarray(region.astype(np.uint8) * np.uint8(255))
    around = mask.filter(ImageFilter.MaxFilter(3))
    line = np.asarray(around) != np.asarray(mask.filter(ImageFilter.MinFilter(3)))
    rim = np.asarray(Image.fromarray(line).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
    pixels = np.array(picture.convert("RGB"))
    pixels[rim] = (pixels[rim] * 0.35).astype(np.uint8)
    pixels[line] = colour
    return Image.fromarray(pixels)


def _resize(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    scores = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    resized = scores.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float64)
