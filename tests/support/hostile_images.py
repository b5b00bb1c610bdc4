# SPDX-License-Identifier: Apache-2.0
"""Small images in every format and mode that the decoder reads, from which hostile ones are made."""

import struct
import zlib
from functools import cache
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

_SIDE = 8


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as a file."""
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def small_images() -> MappingProxyType[str, bytes]:
    """Return valid files of 8 x 8 px by name; the name begins with the format."""
    ramp = np.arange(_SIDE * _SIDE * 3, dtype=np.uint8).reshape(_SIDE, _SIDE, 3)
    colour = Image.fromarray(ramp)
    deep = Image.fromarray(ramp[..., 0].astype(np.uint16) * 257)
    images: dict[str, bytes] = {}
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA"):
        images[f"png-{mode}"] = encoded(colour.convert(mode), "PNG")
    images["png-16"] = encoded(deep, "PNG")
    images["png-rgb16"] = _deep_png(2, np.dstack([ramp.astype(">u2")]))
    images["png-la16"] = _deep_png(4, ramp[..., :2].astype(">u2"))
    images["png-keyed"] = encoded(colour.convert("L"), "PNG", transparency=3)
    for mode in ("L", "RGB", "CMYK"):
        images[f"jpeg-{mode}"] = encoded(colour.convert(mode), "JPEG")
    images["jpeg-progressive"] = encoded(colour, "JPEG", progressive=True)
    exif = Image.Exif()
    exif[274] = 6
    images["jpeg-exif"] = encoded(colour, "JPEG", exif=exif)
    for mode in ("1", "L", "P", "RGB"):
        images[f"bmp-{mode}"] = encoded(colour.convert(mode), "BMP")
    images["bmp-rle"] = _run_length_bmp()
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        images[f"tiff-{compression}"] = encoded(colour, "TIFF", compression=compression)
    for mode in ("1", "L", "P", "RGBA", "CMYK", "F", "I"):
        images[f"tiff-{mode}"] = encoded(colour.convert(mode), "TIFF")
    images["tiff-group4"] = encoded(colour.convert("1"), "TIFF", compression="group4")
    images["tiff-16"] = encoded(deep, "TIFF")
    images["tiff-pages"] = encoded(colour, "TIFF", save_all=True, append_images=[colour, colour])
    images["jp2-rgb"] = encoded(colour, "JPEG2000")
    images["jp2-codestream"] = encoded(colour.convert("L"), "JPEG2000", no_jp2=True)
    images["jp2-16"] = encoded(deep, "JPEG2000")
    images["pnm-P5"] = b"P5\n# ramp\n8 8\n255\n" + ramp[..., 0].tobytes()
    images["pnm-P5-12"] = b"P5 8 8 4095\n" + (ramp[..., 0].astype(">u2") * 16).tobytes()
    images["pnm-P6"] = b"P6 8 8 255 " + ramp.tobytes()
    images["webp-lossy"] = encoded(colour, "WEBP")
    images["webp-lossless"] = encoded(colour.convert("RGBA"), "WEBP", lossless=True, exif=exif.tobytes())
    images["webp-animated"] = encoded(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)])
    return MappingProxyType(images)


def _deep_png(colour: int, samples: np.ndarray[Any, Any]) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _run_length_bmp() -> bytes:
    """Return a BMP with run-length encoding, which Pillow reads but does not write."""
    palette = bytes(value for index in range(256) for value in (index, index, index, 0))
    rows = b"".join(bytes([_SIDE, 16 * row, 0, 0]) for row in range(_SIDE)) + b"\0\1"
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, _SIDE, _SIDE, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows
