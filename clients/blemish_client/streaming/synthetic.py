# SPDX-License-Identifier: Apache-2.0
"""A surface that is not there: frames for a stream without a camera, the same for the same seed."""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_SIDE = 512
_SCENES = 16
"""Drawn ahead and repeated, shifted: drawing must not be what limits a stream."""
_BLEMISHED = 4
"""Every fourth has a spot."""


def frames(seed: int = 0) -> Iterator[bytes]:
    """Yield JPEG frames of grained grey, 512 px, every fourth with a dark spot, for as long as asked."""
    random = np.random.default_rng(seed)
    scenes = [_scene(random, blemished=number % _BLEMISHED == _BLEMISHED - 1) for number in range(_SCENES)]
    while True:
        for scene in scenes:
            down, right = random.integers(0, _SIDE, 2)
            buffer = io.BytesIO()
            Image.fromarray(np.roll(scene, (down, right), (0, 1))).save(buffer, "JPEG", quality=92)
            yield buffer.getvalue()


def _scene(random: np.random.Generator, *, blemished: bool) -> NDArray[np.uint8]:
    grain = Image.fromarray(random.integers(0, 256, (_SIDE, _SIDE), np.uint8))
    surface = grain.filter(ImageFilter.GaussianBlur(2)).point(lambda level: 128 + (level - 128) * 2)
    if blemished:
        left, top = random.integers(64, _SIDE - 64, 2)
        radius = int(random.integers(8, 32))
        ImageDraw.Draw(surface).ellipse((left, top, left + radius, top + radius), fill=30)
    return np.asarray(surface.convert("RGB"))
