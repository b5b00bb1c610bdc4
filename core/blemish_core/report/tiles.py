# SPDX-License-Identifier: Apache-2.0
"""Tiles: a test image next to its anomaly map, with labelled and detected defects outlined."""

from io import BytesIO

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from blemish_core.evaluation.evaluate import ExampleImage
from blemish_core.evaluation.pixel_grid import scaled_mask
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.localization.defect_region import region_picture

SCALE = colormaps["inferno"]
MASK_COLOUR, FOUND_COLOUR, IGNORED_COLOUR = (46, 230, 168), (255, 255, 255), (58, 74, 96)
_GAP = 4
_PICTURE_PX = 512
"""Longer side of the picture of a mask."""
_FAINTEST = 0.35
"""Level of the colour scale below which the map is transparent."""


class HeatScale:
    """The colour scale of all tiles. Its middle is the pixel threshold."""

    def __init__(self, threshold: float, lowest: float) -> None:
        self.threshold = threshold
        self._reach = max(threshold - lowest, 1e-6)

    def level(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return levels from 0 to 1, with 0.5 at the threshold."""
        return np.clip(0.5 + (values - self.threshold) / (2 * self._reach), 0, 1)

    @property
    def highest(self) -> float:
        """Return the lowest value with the last colour of the scale."""
        return self.threshold + self._reach


def tile(image: ExampleImage, heat: HeatScale) -> Image.Image:
    """Return the image with its defects outlined, next to the image with the anomaly map as an overlay.

    Pixels that the model ignores are dyed in both.
    """
    height, width, _ = image.pixels.shape
    values = _scaled(image.example.anomaly_map, (width, height))
    defects = image.example.mask
    truth = None if defects is None else scaled_mask(defects, (height, width))
    original = _outlined(image.pixels, truth, MASK_COLOUR)

    level = heat.level(values)
    opacity = np.clip((level - _FAINTEST) / (0.6 - _FAINTEST), 0, 1)[..., None] * 0.75
    grey = image.pixels.mean(axis=2, keepdims=True) * 0.55 + image.pixels * 0.25
    hot = SCALE(level)[..., :3] * 255
    overlay = (grey * (1 - opacity) + hot * opacity).round().astype(np.uint8)
    found = scaled_mask(region_picture(image.regions, image.frame) > 0, (height, width))
    overlay = _outlined(overlay, found, FOUND_COLOUR)
    overlay = _outlined(overlay, truth, MASK_COLOUR)

    if image.looks is not None:
        original, overlay = _dyed(original, image.looks), _dyed(overlay, image.looks)
    both = Image.new("RGB", (2 * width + _GAP, height), "white")
    both.paste(Image.fromarray(original), (0, 0))
    both.paste(Image.fromarray(overlay), (width + _GAP, 0))
    return both


def picture_of_mask(mask: FrameMask) -> Image.Image:
    """Return the mask as a small picture: inspected pixels in white, ignored ones dyed.

    Where a pixel of the picture shows both, it has a colour between them, so that no small part vanishes.
    """
    height, width = mask.shape
    share = min(1.0, _PICTURE_PX / max(height, width))
    shape = max(1, round(height * share)), max(1, round(width * share))
    looks = mask.fitted(mask.shape)
    inspected, ignored = scaled_mask(looks, shape), scaled_mask(~looks, shape)
    colours = np.where(inspected[..., None], 255, IGNORED_COLOUR)
    colours[inspected & ignored] = (np.array(IGNORED_COLOUR) + 255) // 2
    return Image.fromarray(colours.astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    """Return the image as a file; ``kind`` is ``PNG`` or ``JPEG``."""
    out = BytesIO()
    image.save(out, kind, **({"quality": 84} if kind == "JPEG" else {}))
    return out.getvalue()


def _scaled(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float64)


def _dyed(pixels: NDArray[np.uint8], looks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) with a flat colour over most of what is outside of ``looks`` (H, W)."""
    dyed = (pixels * 0.25 + np.array(IGNORED_COLOUR) * 0.75).astype(np.uint8)
    return np.where(looks[..., None], pixels, dyed)


def _outlined(
    pixels: NDArray[np.uint8], region: NDArray[np.bool_] | None, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Draw the inner edge of a region (H, W), and a dark rim outside for contrast on any surface."""
    if region is None or not region.any():
        return pixels
    drawn = pixels.copy()
    rim = binary_dilation(region) & ~region
    drawn[rim] = drawn[rim] // 3
    drawn[region & ~binary_erosion(region, border_value=1)] = colour
    return drawn
