# SPDX-License-Identifier: Apache-2.0
"""Raw frames of cameras, with the region to score."""

import struct

from tests.fuzz.source import Source
from tests.fuzz.target import Target

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.imaging.pixel_formats import PIXEL_FORMATS
from blemish_core.imaging.white_level import WhiteLevel

LIMITS = ImageLimits(min_side=4, max_side=512, max_pixels=1 << 16)
_FORMATS = [*PIXEL_FORMATS, "Mono8 ", ""]
_LEVELS = (None, WhiteLevel(), WhiteLevel(level=4095), WhiteLevel(level=1000, given=True))


def run(data: bytes) -> None:
    source = Source(data)
    pixel_format = source.choice(_FORMATS)
    flags = source.integer()
    has_region, level = flags % 2, _LEVELS[flags // 2 % len(_LEVELS)]
    width, height, stride = (source.integer(4) for _ in range(3))
    region = Region(*(source.integer(4) for _ in range(4))) if has_region else None
    image = ImageInput(source.rest(), RawLayout(pixel_format, width, height, stride), region)
    pixels = image.pixels(LIMITS, level)
    expected = (region.height, region.width, 3) if region else (height, width, 3)
    assert pixels.shape == expected
    assert image.whole(LIMITS, level).pixels.shape == (height, width, 3)


def seeds() -> dict[str, bytes]:
    whole = {
        name: struct.pack("<BBiii", number, 0, 8, 4, 0) + bytes(kind.size_bytes(8 * 4))
        for number, (name, kind) in enumerate(PIXEL_FORMATS.items())
    }
    cropped = struct.pack("<BBiiiiiii", 0, 1, 8, 8, 9, 1, 1, 5, 6) + bytes(9 * 8)
    return whole | {"region": cropped}


TARGET = Target(run, seeds)
