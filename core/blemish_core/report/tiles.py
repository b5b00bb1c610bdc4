# SPDX-License-Identifier: Apache-2.0
"""A test image beside its anomaly map, in one colour scale for all, true and found defects outlined."""

from io import BytesIO

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from blemish_core.evaluation.evaluate import ExampleImage

SCALE = colormaps["inferno"]
MASK_COLOUR, FOUND_COLOUR = (46, 230, 168), (255, 255, 255)
_GAP = 4
_FAINTEST = 0.35
"""Of the scale: below it a map is not laid over its image."""


class HeatScale:
    """The colour scale of all tiles: its middle is the pixel threshold."""

    def __init__(self, threshold: float, lowest: float) -> None:
        self.threshold = threshold
        self._reach = max(threshold - lowest, 1e-6)

    def level(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From 0 to 1; 0.5 at the threshold."""
        return np.clip(0.5 + (values - self.threshold) / (2 * self._reach), 0, 1)

    @property
    def highest(self) -> float:
        """The value from which on the colour is the hottest."""
        return self.threshold + self._reach


def tile(picture: ExampleImage, heat: HeatScale) -> Image.Image:
    """Return the image with the outline of its mask, and beside it the anomaly map laid over it."""
    height, width, _ = picture.pixels.shape
    values = _scaled(picture.example.anomaly_map, (width, height))
    mask = picture.example.mask
    truth = None if mask is None else _scaled(mask.astype(np.float32), (width, height)) >= 0.5
    seen = _outlined(picture.pixels, truth, MASK_COLOUR)

    level = heat.level(values)
    opacity = np.clip((level - _FAINTEST) / (0.6 - _FAINTEST), 0, 1)[..., None] * 0.75
    grey = picture.pixels.mean(axis=2, keepdims=True) * 0.55 + picture.pixels * 0.25
    hot = SCALE(level)[..., :3] * 255
    laid = (grey * (1 - opacity) + hot * opacity).round().astype(np.uint8)
    laid = _outlined(laid, values > heat.threshold, FOUND_COLOUR)
    laid = _outlined(laid, truth, MASK_COLOUR)

    both = Image.new("RGB", (2 * width + _GAP, height), "white")
    both.paste(Image.fromarray(seen), (0, 0))
    both.paste(Image.fromarray(laid), (width + _GAP, 0))
    return both


def encoded(image: Image.Image, kind: str) -> bytes:
    """Return the bytes as ``PNG`` or ``JPEG``."""
    out = BytesIO()
    image.save(out, kind, **({"quality": 84} if kind == "JPEG" else {}))
    return out.getvalue()


def _scaled(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float64)


def _outlined(
    pixels: NDArray[np.uint8], region: NDArray[np.bool_] | None, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Draw the inner edge of a region (H, W), with a dark rim outside that stands out on any surface."""
    if region is None or not region.any():
        return pixels
    drawn = pixels.copy()
    rim = binary_dilation(region) & ~region
    drawn[rim] = drawn[rim] // 3
    drawn[region & ~binary_erosion(region, border_value=1)] = colour
    return drawn
