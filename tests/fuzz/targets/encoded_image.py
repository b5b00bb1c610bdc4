# SPDX-License-Identifier: Apache-2.0
"""Encoded images in every format that is read, and their conversion with each kind of white level."""

from contextlib import suppress

from tests.fuzz.target import Target
from tests.support.hostile_images import small_images

from blemish_core.imaging.decode import ImageLimits, decode, verify, verify_header
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.errors import InvalidImage

LIMITS = ImageLimits(min_side=4, max_side=512, max_pixels=1 << 16)

_LEVELS = (WhiteLevel(), WhiteLevel(level=4095), WhiteLevel(level=1000, given=True))


def run(data: bytes) -> None:
    for level in _LEVELS:
        with suppress(InvalidImage):
            verify(data, LIMITS, level)
    pixels = decode(data, LIMITS)
    header = verify(data, LIMITS)
    verify_header(data, LIMITS)
    assert pixels.shape == (header.height, header.width, 3)
    assert pixels.size <= 3 * LIMITS.max_pixels


TARGET = Target(run, small_images, max_growth_bytes=32 << 20)
