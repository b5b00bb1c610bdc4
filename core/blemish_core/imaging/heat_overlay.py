# SPDX-License-Identifier: Apache-2.0
"""An anomaly map drawn over its image, for small pictures that are drawn often."""

import cv2
import numpy as np
from numpy.typing import NDArray

_LEVELS = 256
_MAX_OPACITY = 0.72
_VISIBLE_FROM = 0.8
"""Fraction of the way to the threshold from which on the map is visible."""
# Pale yellow to deep red. Lightness falls monotonically, so that the scale also works for colour-blind
# people.
_COLOURS = ((255, 244, 170), (254, 205, 100), (250, 155, 60), (236, 92, 45), (208, 32, 40), (168, 0, 38))


def _scale() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the colour (256, 3) and the opacity (256, 1) of each level; the threshold is in the middle."""
    level = np.linspace(0.0, 1.0, _LEVELS)
    at = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(level, at, [colour[channel] for colour in _COLOURS]) for channel in range(3)]
    visible = _VISIBLE_FROM / 2
    opacity = _MAX_OPACITY * ((level - visible) / (1 - visible)).clip(0.0, 1.0) ** 0.7
    return np.stack(channels, axis=-1).astype(np.float32), opacity[:, None].astype(np.float32)


_COLOUR, _OPACITY = _scale()
_HOT = _COLOUR * _OPACITY
_CALM = 1 - _OPACITY


def heat_overlay(
    pixels: NDArray[np.uint8], anomaly_map: NDArray[np.float32], threshold: float
) -> NDArray[np.uint8]:
    """Return an image with its anomaly map as a transparent layer.

    Pixels below the threshold are hardly coloured. The scale extends at least as far above the threshold as
    below it, so that a good image shows no strong colours.

    Args:
        pixels: RGB image, (H, W, 3).
        anomaly_map: score of each pixel, (h, w), of any size.
        threshold: pixel score in the middle of the colour scale.
    """
    height, width, _ = pixels.shape
    scores = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_AREA)
    reach = max(threshold - float(anomaly_map.min()), float(anomaly_map.max()) - threshold, 1e-12)
    levels = ((scores - threshold) / (2 * reach) + 0.5) * (_LEVELS - 1)
    level = levels.clip(0, _LEVELS - 1).astype(np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    calm = 0.45 * pixels.astype(np.float32) + 0.55 * grey
    drawn: NDArray[np.uint8] = (calm * _CALM[level] + _HOT[level]).round().astype(np.uint8)
    return drawn
