# SPDX-License-Identifier: Apache-2.0
"""A test for black PNGs that needs no image library, which the client may lack."""

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_MAX_PIXELS = 1 << 28
_STEP = 1 << 20


def is_black(data: bytes) -> bool | None:
    """Return whether all samples of a grey or RGB PNG are zero; None if that cannot be decided.

    Rows of zeros have only zeros under every filter of PNG, apart from the filter's own byte.
    """
    try:
        width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    except struct.error:
        return None
    if not data.startswith(_SIGNATURE) or colour not in (_GREY, _RGB) or interlace:
        return None
    if not 0 < width * height <= _MAX_PIXELS:
        return None
    row = 1 + (width * depth * (3 if colour == _RGB else 1) + 7) // 8
    inflated, left = zlib.decompressobj(), row * height
    rest = b""
    try:
        for chunk in _chunks(data):
            rest += chunk
            while rest and left:
                samples = bytearray(inflated.decompress(rest, min(_STEP // row + 1, left // row) * row))
                rest = inflated.unconsumed_tail
                if not samples:
                    break
                done = row * height - left
                left -= len(samples)
                del samples[-done % row :: row]
                if samples.count(0) != len(samples):
                    return False
    except (zlib.error, struct.error):
        return None
    return True if left == 0 else None


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yield the data of the IDAT chunks."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + size]
        at += size + 12
