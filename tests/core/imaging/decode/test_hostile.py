# SPDX-License-Identifier: Apache-2.0

import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from blemish_core.imaging.decode import ImageLimits, decode, read_mask, thumbnail, verify
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

FORMATS = ("JPEG", "JPEG2000", "PNG", "BMP", "TIFF", "WEBP", "PPM")
SEED = 20_260
PX = 48


BOMBS = """
import resource, sys
from blemish_core.platform.errors import InvalidImage
from blemish_core.imaging.decode import verify, decode, read_mask, thumbnail

with open("/proc/self/statm") as status:
    used = int(status.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
data = sys.stdin.buffer.read()
for function in (decode, verify, read_mask, thumbnail):
    try:
        function(data)
    except InvalidImage as error:
        print(error)
    else:
        sys.exit(f"{function.__name__} accepted the image")
"""


def _patched(data: bytes, at: int, fields: str, *values: int) -> bytes:
    packed = struct.pack(fields, *values)
    return data[:at] + packed + data[at + len(packed) :]


def _png_bomb(files: "Files") -> bytes:
    return files.png(files.sample_image(), 2, depth=8, size=(20_000, 20_000))


def _png_zip_bomb(files: "Files") -> bytes:
    """Return a PNG that really contains 9000 x 9000 pixels, in 80 kB."""
    return files.png(np.zeros((9000, 9000), np.uint8), 0, depth=8)


def _jpeg_bomb(files: "Files") -> bytes:
    data = files.encoded(files.sample_image(), "JPEG")
    return _patched(data, data.index(b"\xff\xc0") + 5, ">HH", 16_000, 16_000)


def _bmp_bomb(files: "Files") -> bytes:
    return _patched(files.encoded(files.sample_image(), "BMP"), 18, "<II", 16_000, 16_000)


def _tiff_bomb(files: "Files") -> bytes:
    return files.tiff(files.sample_image(), "<", 2, t256=16_000, t257=16_000)


def _tiff_tile_bomb(files: "Files") -> bytes:
    return files.tiff(files.sample_image(), "<", 2, t259=5, t322=16_000, t323=16_000, t324=8, t325=99)


def _webp_bomb(files: "Files") -> bytes:
    image = Image.new("RGBA", (32, 32), (1, 2, 3, 4))
    data = files.encoded(image, "WEBP", exif=b"Exif\0\0")
    assert data[12:16] == b"VP8X"
    return _patched(data, 24, "<HBHB", 8_999, 0, 8_999, 0)


def _webp_lossless_bomb(files: "Files") -> bytes:
    data = files.encoded(files.sample_image(), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    return _patched(data, 21, "<I", 8_999 | 8_999 << 14)


def _webp_lossy_bomb(files: "Files") -> bytes:
    data = files.encoded(files.sample_image(), "WEBP")
    assert data[12:16] == b"VP8 "
    return _patched(data, 26, "<HH", 9_000, 9_000)


def _jpeg2000_bomb(files: "Files") -> bytes:
    data = files.encoded(files.sample_image(), "JPEG2000")
    at = data.index(b"\xff\x51")
    return _patched(_patched(data, at + 6, ">II", 16_000, 16_000), at + 22, ">II", 16_000, 16_000)


def _pgm_bomb(files: "Files") -> bytes:
    return b"P5 16000 16000 65535\n" + bytes(1000)


def _plain_ppm_bomb(files: "Files") -> bytes:
    return b"P3 16000 16000 255\n" + b"1 " * 1000


class TestHostility:
    @pytest.mark.parametrize(
        "bomb",
        [
            _png_bomb,
            _png_zip_bomb,
            _jpeg_bomb,
            _bmp_bomb,
            _tiff_bomb,
            _tiff_tile_bomb,
            _webp_bomb,
            _webp_lossless_bomb,
            _webp_lossy_bomb,
            _jpeg2000_bomb,
            _pgm_bomb,
            _plain_ppm_bomb,
        ],
    )
    def test_decompression_bomb_takes_little_memory(
        self, files: "Files", bomb: Callable[["Files"], bytes]
    ) -> None:
        command = [sys.executable, "-W", "error", "-c", BOMBS]
        done = subprocess.run(command, input=bomb(files), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""
        reasons = done.stdout.decode().splitlines()
        assert len(reasons) == 4
        for reason in reasons:
            assert "pixels" in reason or "at most 16384" in reason, reason

    @pytest.mark.parametrize("kind", FORMATS)
    def test_damaged_bytes_raise_only_invalid_image(self, files: "Files", kind: str) -> None:
        print("seed", SEED)
        dice = random.Random(SEED)
        exif = Image.Exif()
        exif[0x0112] = 6
        options: dict[str, Any] = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}
        sources = [files.encoded(files.sample_image(24, 32), kind, **options)]
        if kind == "TIFF":
            sources += [
                files.encoded(files.sample_image(24, 32), "TIFF", compression="tiff_lzw"),
                files.tiff(files.deep(3), ">", 2),
            ]
        rejected = 0
        for turn in range(400):
            data = bytearray(dice.choice(sources))
            for _ in range(dice.choice((1, 2, 8))):
                # Damage the header more often than the pixels.
                place = (
                    dice.randrange(min(len(data), 200))
                    if dice.random() < 0.7
                    else dice.randrange(len(data))
                )
                data[place] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
            if dice.random() < 0.2:
                del data[dice.randrange(len(data)) :]
            function: Any = (decode, verify, read_mask, thumbnail)[turn % 4]
            try:
                function(
                    bytes(data), ImageLimits(max_pixels=1 << 20)
                ) if function is not thumbnail else function(bytes(data))
            except InvalidImage as error:
                assert str(error)
                rejected += 1
        assert rejected > 40

    def test_warnings_of_pillow_are_suppressed(self, files: "Files") -> None:
        data = files.encoded(
            files.sample_image(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9
        )
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(decode, [data] * 40))) == 40
        with pytest.warns(UserWarning, match="ours"):  # other warnings still appear
            warnings.warn("ours", stacklevel=1)

    def test_global_limit_of_pillow_is_unchanged(self, files: "Files") -> None:
        before = Image.MAX_IMAGE_PIXELS
        with pytest.raises(InvalidImage):
            decode(_png_bomb(files))
        assert before == Image.MAX_IMAGE_PIXELS
