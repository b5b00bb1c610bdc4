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
    """Return what each level adds to a pixel, and the factor of the pixel, each (1, 256, 3).

    The threshold is in the middle of the levels.
    """
    level = np.linspace(0.0, 1.0, _LEVELS)
    at = np.linspace(0.0, 1.0, len(_COLOURS))
    colour = np.stack(
        [np.interp(level, at, [each[channel] for each in _COLOURS]) for channel in range(3)], axis=-1
    )
    visible = _VISIBLE_FROM / 2
    opacity = _MAX_OPACITY * ((level - visible) / (1 - visible)).clip(0.0, 1.0)[:, None] ** 0.7
    factor = np.broadcast_to(1 - opacity, colour.shape)
    return (colour * opacity)[None].astype(np.float32), np.ascontiguousarray(factor[None], np.float32)


_ADDED, _FACTOR = _scale()


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
    scale = (_LEVELS - 1) / (2 * reach)
    level = cv2.convertScaleAbs((scores - threshold + reach).clip(0.0, 2 * reach), alpha=scale)
    levels = cv2.merge((level, level, level))
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    calm = cv2.addWeighted(pixels, 0.45, grey, 0.55, 0.0, dtype=cv2.CV_32F)
    drawn = cv2.add(cv2.multiply(calm, cv2.LUT(levels, _FACTOR)), cv2.LUT(levels, _ADDED))
    return cv2.convertScaleAbs(drawn)  # type: ignore[return-value]
