# SPDX-License-Identifier: Apache-2.0
"""Encoded test images, including files that Pillow cannot write."""

import struct
import zlib
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SEED = 20_260
PX = 48

Order = Literal["<", ">"]


def sample_image(height: int = PX, width: int = PX) -> NDArray[np.uint8]:
    """Return a smooth image (H, W, 3) with different corners and some noise."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 200 // width, y * 200 // height, (x + y) * 100 // (width + height)], axis=-1)
    return (base + rng.integers(0, 20, base.shape)).astype(np.uint8)


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: NDArray[Any], colour: int, *extra: bytes, depth: int = 16, size: Any = None) -> bytes:
    """Return a PNG of samples (H, W, C); ``size`` overrides width and height in the header."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if depth == 16 else ">u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", zlib.compress(raw)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(samples: NDArray[Any], order: Order, photometric: int, **tags: Any) -> bytes:
    """Return an uncompressed TIFF in one strip; ``tags`` such as t322=... are added or override."""
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {256: width, 257: height, 258: [bits] * channels, 259: 1, 262: photometric, 273: 8}
    entries |= {277: channels, 278: height, 279: len(data), 284: 1, 339: [kind] * channels}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    directory, late = b"", b""
    start = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        size, code = ("H", 3) if isinstance(value, list) else ("I", 4)
        packed = struct.pack(f"{order}{len(values)}{size}", *values)
        if len(packed) > 4:
            late, packed = late + packed, struct.pack(f"{order}I", start + len(late))
        directory += struct.pack(f"{order}HHI", tag, code, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(entries)) + directory + b"\0\0\0\0" + late


def eighth(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 16-bit samples converted to 8 bits in floating point."""
    return np.floor(samples.astype(np.float64) * 255 / 65_535 + 0.5).astype(np.uint8)


def deep(channels: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(SEED)
    return rng.integers(0, 65_536, (PX, PX, channels)).astype(np.uint16)


class Files:
    """The functions above, for tests that cannot import this module."""

    sample_image = staticmethod(sample_image)
    encoded = staticmethod(encoded)
    chunk = staticmethod(chunk)
    png = staticmethod(png)
    tiff = staticmethod(tiff)
    eighth = staticmethod(eighth)
    deep = staticmethod(deep)


@pytest.fixture
def files() -> Files:
    return Files()
