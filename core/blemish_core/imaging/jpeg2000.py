# SPDX-License-Identifier: Apache-2.0
"""Check of JPEG 2000 headers before OpenJPEG sees them, because it allocates what they ask for.

Source: ISO/IEC 15444-1, annexes A (codestream) and I (JP2 file format). Only what common encoders write is
accepted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from blemish_core.platform.errors import InvalidImage

CODESTREAM = b"\xff\x4f\xff\x51"
FILE = b"\0\0\0\x0cjP  \r\n\x87\n"

_SOC, _SIZ, _COD, _QCD, _QCC, _RGN = 0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF5D, 0xFF5E
_TLM, _PLM, _PLT, _CRG, _COM, _SOT, _SOD, _EOC = (
    0xFF55,
    0xFF57,
    0xFF58,
    0xFF63,
    0xFF64,
    0xFF90,
    0xFF93,
    0xFFD9,
)
_IN_MAIN_HEADER = frozenset({_SIZ, _COD, _QCD, _QCC, _RGN, _TLM, _PLM, _CRG, _COM})
_IN_TILE_HEADER = frozenset({_QCD, _QCC, _RGN, _PLT, _COM})

_MAX_TILES = 4096
"""Most tiles. OpenJPEG allocates some kilobytes for each before it decodes one."""
_MAX_LAYERS = 100
_MIN_BLOCK_BITS = 4
"""Binary logarithm of the shortest side of code-blocks and precincts, each of which takes memory."""
_SHORTEST_SIZ = 38


@dataclass(frozen=True)
class Jpeg2000Header:
    """The header of a codestream."""

    width: int
    height: int
    components: int
    bits: int
    """Bits of a sample."""
    tiles: int


def read_header(data: bytes) -> Jpeg2000Header:
    """Return the header of a file, and check that the file is complete.

    Raises:
        InvalidImage: if the file is malformed, truncated, or would take a lot of memory to decode.
    """
    stream = _codestream(data)
    header = None
    is_coded = False
    for marker, content in _main_header(stream):
        if marker == _SIZ:
            header = _parse_size(content)
        elif marker == _COD:
            _check_coding(content)
            is_coded = True
    if header is None or not is_coded:
        raise _malformed()
    _check_tile_parts(stream, header.tiles)
    return header


def _codestream(data: bytes) -> memoryview:
    """Return the codestream, which is the whole file or one of its boxes."""
    view = memoryview(data)
    if data.startswith(CODESTREAM):
        return view
    position = 0
    while position + 8 <= len(data):
        length, start = int.from_bytes(view[position : position + 4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(view[position + 8 : position + 16], "big"), 16
        end = position + length if length else len(data)
        if end < position + start:
            raise _malformed()
        if bytes(view[position + 4 : position + 8]) == b"jp2c":
            if end > len(data):
                raise _truncated(data)
            return view[position + start : end]
        position = end
    raise _truncated(data)


def _main_header(stream: memoryview) -> Iterator[tuple[int, memoryview]]:
    if _word(stream, 0) != _SOC:
        raise _malformed()
    position = 2
    while (marker := _word(stream, position)) != _SOT:
        if marker not in _IN_MAIN_HEADER:
            raise _unusual()
        length = _word(stream, position + 2)
        if length < 2 or (position == 2) != (marker == _SIZ):
            raise _malformed()
        yield marker, stream[position + 4 : position + 2 + length]
        position += 2 + length


def _check_tile_parts(stream: memoryview, tiles: int) -> None:
    """Check that the headers of tiles change no sizes, and that no tile and not the end is missing."""
    position, seen = _first_tile(stream), set()
    while _word(stream, position) == _SOT:
        length = int.from_bytes(stream[position + 6 : position + 10], "big") or len(stream) - 2 - position
        seen.add(_word(stream, position + 4))
        at = position + 12
        while (marker := _word(stream, at)) != _SOD:
            if marker not in _IN_TILE_HEADER:
                raise _unusual()
            at += 2 + max(2, _word(stream, at + 2))
        if length < at + 2 - position:
            raise _malformed()
        position += length
    if _word(stream, position) != _EOC or len(seen) < tiles:
        raise _truncated(stream)


def _first_tile(stream: memoryview) -> int:
    position = 2
    while _word(stream, position) != _SOT:
        position += 2 + _word(stream, position + 2)
    return position


def _parse_size(content: memoryview) -> Jpeg2000Header:
    if len(content) < _SHORTEST_SIZ - 3:
        raise _malformed()
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y = (
        int.from_bytes(content[at : at + 4], "big") for at in range(2, 34, 4)
    )
    components = _word(content, 34)
    if len(content) != 36 + 3 * components or components not in (1, 2, 3, 4):
        raise _invalid(f"the JPEG 2000 has {components} components; save it with 1 to 4")
    depths = {int(content[36 + 3 * number]) for number in range(components)}
    if any(
        step != 1 for number in range(components) for step in content[37 + 3 * number : 39 + 3 * number]
    ):
        raise _invalid("the JPEG 2000 has colours at a lower resolution; save it with equal components")
    if len(depths) != 1 or (depth := depths.pop()) >= 128:
        raise _invalid("the JPEG 2000 has components of different depth or signed ones; save it as PNG")
    bits = depth + 1
    if bits > 16 or (components > 1 and bits > 8):
        raise _invalid(
            f"the JPEG 2000 has {components} components of {bits} bits; save it with 8 bits, in grey, or "
            "as PNG"
        )
    if x0 >= x1 or y0 >= y1 or not tile_width or not tile_height or tile_x > x0 or tile_y > y0:
        raise _malformed()
    tiles = ceil((x1 - tile_x) / tile_width) * ceil((y1 - tile_y) / tile_height)
    if tiles > _MAX_TILES:
        raise _invalid(
            f"the JPEG 2000 has {tiles} tiles, more than {_MAX_TILES}; save it with larger tiles"
        )
    return Jpeg2000Header(x1 - x0, y1 - y0, components, bits, tiles)


def _check_coding(content: memoryview) -> None:
    if len(content) < 10:
        raise _malformed()
    layers, levels = _word(content, 2), content[5]
    sides = [content[6] + 2, content[7] + 2]
    if content[0] & 1:
        precincts = content[10 : 11 + levels]
        if len(precincts) != levels + 1:
            raise _malformed()
        sides += [side for each in precincts for side in (each & 15, each >> 4)]
    if layers > _MAX_LAYERS or levels > 32 or min(sides) < _MIN_BLOCK_BITS:
        raise _unusual()


def _word(view: memoryview, at: int) -> int:
    """Return two bytes as a number.

    Raises:
        InvalidImage: if the codestream ends before.
    """
    if at + 2 > len(view):
        raise _truncated(view)
    return int.from_bytes(view[at : at + 2], "big")


def _malformed() -> InvalidImage:
    return _invalid("the header of the JPEG 2000 is malformed; save the image again")


def _unusual() -> InvalidImage:
    return _invalid(
        "the JPEG 2000 uses features that cost a lot of memory or are rare; save it with default settings"
    )


def _truncated(data: bytes | memoryview) -> InvalidImage:
    return _invalid(f"the JPEG 2000 is truncated after {len(data)} bytes; send the whole file")


def _invalid(reason: str) -> InvalidImage:
    return InvalidImage(reason, field="image")
