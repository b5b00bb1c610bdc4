# SPDX-License-Identifier: Apache-2.0
"""Images of the largest allowed size that take the most memory or time, and bombs that hide more."""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from tests.support.hostile_images import encoded, png_chunk

Build = Callable[[int], bytes]
"""Returns a file whose image has sides of the given length, in px."""


def _noise(side: int, channels: int, dtype: type = np.uint8) -> NDArray[Any]:
    top = np.iinfo(dtype).max
    row = np.random.default_rng(1).integers(0, top, (64, side, channels), dtype=dtype)
    return np.tile(row, (-(-side // 64), 1, 1))[:side]


def _image(side: int, mode: str) -> Image.Image:
    return Image.fromarray(_noise(side, 3)).convert(mode)


def _png(side: int, colour: int, channels: int, depth: int = 16, extra: bytes = b"") -> bytes:
    samples = _noise(side, channels, np.uint16).astype(">u2") if depth == 16 else _noise(side, channels)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples), 1)
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


def _uniform_png(side: int) -> bytes:
    """Return a PNG of very few bytes, which holds one colour."""
    return encoded(Image.new("RGB", (side, side), (9, 9, 9)), "PNG")


def _png_with_profile_bomb(side: int) -> bytes:
    return _png(side, 2, 3, 8, png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(256 << 20), 9)))


def _png_with_text_bomb(side: int) -> bytes:
    return _png(side, 2, 3, 8, png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(256 << 20), 9)))


def _png_with_texts(side: int) -> bytes:
    return _png(side, 2, 3, 8, png_chunk(b"tEXt", b"key\0" + bytes(60_000)) * 1000)


def _png_with_exif(side: int) -> bytes:
    return _png(side, 2, 3, 8, png_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65_535)))


def _jpeg_with_segments(side: int) -> bytes:
    data = encoded(_image(side, "RGB"), "JPEG")
    segment = b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\xff" + bytes(65_519)
    return data[:2] + segment * 400 + data[2:]


def _progressive_jpeg(side: int) -> bytes:
    return encoded(_image(side, "RGB"), "JPEG", progressive=True, quality=98)


def _tiff(side: int, mode: str, compression: str, **tags: int) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("t"))] = value
    return encoded(_image(side, mode), "TIFF", compression=compression, tiffinfo=info)


def _deep_tiff(side: int) -> bytes:
    return encoded(Image.fromarray(_noise(side, 1, np.uint16)[..., 0]), "TIFF", compression="tiff_lzw")


def _float_tiff(side: int) -> bytes:
    return encoded(Image.fromarray(np.float32(_noise(side, 1)[..., 0] / 255)), "TIFF")


def _tiff_with_directories(side: int) -> bytes:
    """Return a TIFF whose directories form a chain of a million links in a circle."""
    data = bytearray(encoded(_image(side, "RGB"), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def _tiff_with_huge_tag(side: int) -> bytes:
    """Return a TIFF with a tag of 64 MB of unknown meaning."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[65_000] = bytes(64 << 20)
    info.tagtype[65_000] = 7
    return encoded(_image(side, "RGB"), "TIFF", tiffinfo=info)


def _animated_webp(side: int) -> bytes:
    frames = [Image.new("RGB", (side, side), (number, 0, 0)) for number in range(30)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=1)


def _bmp(side: int, mode: str) -> bytes:
    return encoded(_image(side, mode), "BMP")


def _run_length_bmp(side: int) -> bytes:
    palette = bytes(value for index in range(256) for value in (index, index, index, 0))
    rows = b"".join(bytes([255, row % 256]) * (side // 255 + 1) + b"\0\0" for row in range(side)) + b"\0\1"
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def _pgm(side: int) -> bytes:
    return b"P5 %d %d 4095 " % (side, side) + (_noise(side, 1, np.uint16) & 4095).astype(">u2").tobytes()


def _ppm(side: int) -> bytes:
    return b"P6 %d %d 65535 " % (side, side) + _noise(side, 3, np.uint16).astype(">u2").tobytes()


def _jpeg2000(side: int, mode: str) -> bytes:
    half = side // 2  # three samples a pixel count as three pixels
    return encoded(_image(half, mode), "JPEG2000")


WORST_IMAGES: Mapping[str, Build] = {
    "PNG, one colour": _uniform_png,
    "PNG, grey": lambda side: encoded(_image(side, "L"), "PNG", compress_level=1),
    "PNG, palette": lambda side: encoded(_image(side, "P"), "PNG", compress_level=1),
    "PNG, RGBA": lambda side: encoded(_image(side, "RGBA"), "PNG", compress_level=1),
    "PNG, 16 bits": lambda side: _png(side, 0, 1),
    "PNG, 16 bits, grey and alpha": lambda side: _png(side, 4, 2),
    "PNG, 16 bits, RGB": lambda side: _png(side, 2, 3),
    "PNG, 16 bits, RGBA": lambda side: _png(side, 6, 4),
    "PNG, ICC profile of 256 MB": _png_with_profile_bomb,
    "PNG, text of 256 MB": _png_with_text_bomb,
    "PNG, 1000 texts": _png_with_texts,
    "PNG, EXIF of 65,535 tags": _png_with_exif,
    "JPEG": lambda side: encoded(_image(side, "RGB"), "JPEG", quality=98),
    "JPEG, CMYK": lambda side: encoded(_image(side, "CMYK"), "JPEG", quality=98),
    "JPEG, progressive": _progressive_jpeg,
    "JPEG, profile of 26 MB": _jpeg_with_segments,
    "TIFF, raw": lambda side: _tiff(side, "RGB", "raw"),
    "TIFF, LZW": lambda side: _tiff(side, "RGB", "tiff_lzw"),
    "TIFF, deflate in one strip": lambda side: _tiff(side, "RGB", "tiff_adobe_deflate", t278=side),
    "TIFF, CMYK": lambda side: _tiff(side, "CMYK", "tiff_lzw"),
    "TIFF, RGBA": lambda side: _tiff(side, "RGBA", "tiff_lzw"),
    "TIFF, 16 bits": _deep_tiff,
    "TIFF, float": _float_tiff,
    "TIFF, circular directories": _tiff_with_directories,
    "TIFF, tag of 64 MB": _tiff_with_huge_tag,
    "WebP, lossy": lambda side: encoded(_image(side, "RGB"), "WEBP", method=0),
    "WebP, lossless": lambda side: encoded(_image(side, "RGBA"), "WEBP", lossless=True, method=0),
    "WebP, 30 frames": _animated_webp,
    "BMP": lambda side: _bmp(side, "RGB"),
    "BMP, RLE": _run_length_bmp,
    "JPEG 2000": lambda side: _jpeg2000(side, "RGB"),
    "PGM, 12 bits": _pgm,
    "PPM, 16 bits": _ppm,
}
"""Builders by the name of the input. JPEG 2000 counts each sample as a pixel, so its sides are halved."""
