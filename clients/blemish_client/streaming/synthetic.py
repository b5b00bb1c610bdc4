# SPDX-License-Identifier: Apache-2.0
"""Synthetic frames for a stream without a camera."""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_SIDE = 512
_SCENES = 16
"""Number of images drawn in advance. They are repeated at random offsets, because drawing is slow."""
_DEFECT_INTERVAL = 4
"""Interval of the images with a spot."""


def frames(seed: int = 0) -> Iterator[bytes]:
    """Yield JPEG frames of grainy grey, 512 px per side, without end. Every fourth has a dark spot.

    The same seed gives the same frames.
    """
    random = np.random.default_rng(seed)
    scenes = [
        _scene(random, defective=number % _DEFECT_INTERVAL == _DEFECT_INTERVAL - 1)
        for number in range(_SCENES)
    ]
    while True:
        for scene in scenes:
            down, right = random.integers(0, _SIDE, 2)
            buffer = io.BytesIO()
            Image.fromarray(np.roll(scene, (down, right), (0, 1))).save(buffer, "JPEG", quality=92)
            yield buffer.getvalue()


def _scene(random: np.random.Generator, *, defective: bool) -> NDArray[np.uint8]:
    grain = Image.fromarray(random.integers(0, 256, (_SIDE, _SIDE), np.uint8))
    surface = grain.filter(ImageFilter.GaussianBlur(2)).point(lambda level: 128 + (level - 128) * 2)
    if defective:
        left, top = random.integers(64, _SIDE - 64, 2)
        radius = int(random.integers(8, 32))
        ImageDraw.Draw(surface).ellipse((left, top, left + radius, top + radius), fill=30)
    return np.asarray(surface.convert("RGB"))
