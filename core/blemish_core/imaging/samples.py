# SPDX-License-Identifier: Apache-2.0
"""Samples of an image that Pillow has opened, upright, and their conversion to 8 bits."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from blemish_core.imaging.jpeg2000 import read_header
from blemish_core.imaging.white_level import FULL, Depth, WhiteLevel, bits_of, highest_of
from blemish_core.platform.errors import InvalidImage

_SIXTEEN_BITS = re.compile(r"(RGBA?;16)([BLN])")
_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 281, 341
_SAMPLED = 1 << 20
_BAND_PIXELS = 1 << 18
"""Pixels of the rows that are converted at once, so that intermediate values take little memory."""
_LEAST_LEVELS = 8
"""Different samples from which on it is no chance that all are multiples of a power of two."""


@dataclass(frozen=True)
class Statement:
    """The white that a file states for samples of 16 bits."""

    white: int
    significant: int = 0xFFFF
    """Bits of a sample that carry information."""


@dataclass(frozen=True)
class Samples:
    """The samples of an image at their stored depth."""

    values: NDArray[Any]
    """(H, W) or (H, W, channels): uint8, uint16, or float32 for fractions of white."""
    white: int = 255
    """White by the format, 1 for fractions."""
    has_alpha: bool = False
    """True if the last channel is alpha. Samples of 8 bits are composed already."""
    is_inverted: bool = False
    """True if 0 is white."""
    statement: Statement | None = None
    """White by the file; None without a statement, and if the format defines it."""

    def in_eight_bits(self, level: WhiteLevel | None) -> tuple[NDArray[np.uint8], Depth | None]:
        """Return the samples scaled so that white is 255, alpha composed over black, and their depth.

        Args:
            level: white level of the dataset or model; None for the rule of versions before there were
                levels, by which all samples of 16 bits have a white of 65,535.

        Raises:
            InvalidImage: if a sample does not fit the white level.
        """
        if self.values.dtype == np.uint8:
            return self.values, None
        if self.values.dtype == np.float32:
            is_whole = level is not None and self.statement is not None
            white = self.statement.white if is_whole and self.statement else FULL
            most, scale = (white, 1) if is_whole else (1, FULL)
            _check_range(self.values, most)
            highest = int(_whole(self.values.max(), scale))
            return (
                _in_bands(self.values, lambda part: eight_bits(_whole(part, scale), white)),
                Depth(white, highest, stated=True),
            )
        white, stated = self._white(level)
        significant = self._significant(white, stated)
        highest = 0

        def converted(part: NDArray[np.uint16]) -> NDArray[np.uint8]:
            nonlocal highest
            if significant != FULL:
                part = part & np.uint16(significant)
            highest = max(highest, int((part[..., :-1] if self.has_alpha else part).max()))
            if self.is_inverted:
                part = np.uint16(white) - np.minimum(part, np.uint16(white))
            if self.has_alpha:
                part = _over_black(part, white)
            return eight_bits(part, white)

        return _in_bands(self.values, converted), Depth(white, highest, stated)

    def nonzero(self) -> NDArray[np.bool_]:
        """Return (H, W), True where a pixel is not zero in the sense of the format and has an opacity.

        Raises:
            InvalidImage: as for ``in_eight_bits``.
        """
        values = self.values
        if values.dtype == np.float32:
            _check_range(values, 1)

        def converted(part: NDArray[Any]) -> NDArray[np.bool_]:
            if part.dtype == np.float32:
                part = _whole(part, FULL)
            if self.is_inverted:
                part = part != self.white
            if self.has_alpha:
                part = _over_black(part, self.white)
            return np.asarray(part.any(axis=2) if part.ndim == 3 else part != 0)

        return _in_bands(values, converted)

    @property
    def highest(self) -> int:
        """Highest sample as stored; white is 65,535 for fractions."""
        if self.values.dtype == np.float32:
            return int(np.rint(self.values.max() * FULL)) if self.statement is None else FULL
        return int((self.values[..., :-1] if self.has_alpha else self.values).max())

    @property
    def stated_white(self) -> int | None:
        """White by the format or the file; None without a statement, 65,535 for fractions."""
        if self.values.dtype == np.float32:
            return FULL
        return self.white if self.white < FULL else self.statement.white if self.statement else None

    def _white(self, level: WhiteLevel | None) -> tuple[int, bool]:
        """Return white, and True if something defines it."""
        if level is None:
            return self.white, self.white < FULL
        if self.white < FULL:
            same_bits = level.level is not None and bits_of(level.level) == bits_of(self.white)
            return (level.level if level.level and same_bits else self.white), True
        if level.level and level.given:
            return level.level, True
        if self.statement:
            return self.statement.white, True
        return level.level or FULL, level.level is not None

    def _significant(self, white: int, stated: bool) -> int:
        """Return the bits of samples that carry information, after a check against the white level."""
        if self.statement and self.statement.white == white and self.statement.significant != FULL:
            return self.statement.significant
        colours = self.values[..., :-1] if self.has_alpha else self.values
        if stated and (highest := int(colours.max())) > highest_of(white):
            raise InvalidImage(
                f"a sample is {highest}, but the white level is {white}, of {bits_of(white)} bits; send "
                "images of that depth, or correct the white level of the dataset and train again",
                field="image",
            )
        return FULL


def samples(image: ImageFile.ImageFile, data: bytes) -> Samples:
    """Return the samples of an image that Pillow has opened.

    Raises:
        InvalidImage: if samples of 32 bits have no defined white.
    """
    rawmode = _rawmode(image)  # load() discards it
    image.load()
    values: NDArray[Any]
    white, alpha, inverted = 255, False, False
    if image.mode.startswith("I;16"):
        values, white = np.array(image).astype(np.uint16), FULL
        if isinstance(image, TiffImageFile):
            white = (1 << image.tag_v2.get(258, (16,))[0]) - 1
            inverted = image.tag_v2.get(262) == 0  # Pillow inverts 8-bit samples only
        elif isinstance(image, Jpeg2KImageFile):
            bits = read_header(data).bits  # Pillow moves samples to the top
            values, white = values >> np.uint16(16 - bits), (1 << bits) - 1
    elif isinstance(image, Jpeg2KImageFile) and image.mode == "L":
        values = _array(image, "L")
        if (bits := read_header(data).bits) < 8:  # Pillow moves samples to the top
            values = eight_bits(values >> np.uint8(8 - bits), (1 << bits) - 1)
    elif image.mode == "I":
        values, white = _sixteen_bits(np.array(image)), FULL
    elif image.mode == "F":
        values, white = _array(image, "F"), 1
    elif rawmode == "LA;16B":
        pairs = _reread(image, data, "RGBA")
        values = _filled(pairs, lambda part: np.asarray(part).view(">u2").astype(np.uint16))
        white, alpha = FULL, True
    elif deep := _SIXTEEN_BITS.fullmatch(rawmode):
        values, white = _deep_colour(image, data, deep), FULL
        alpha = values.shape[2] == 4
    elif image.mode in ("1", "L"):
        values = _array(image, "L")
    elif image.mode == "RGB" or not image.has_transparency_data:
        values = _array(image, "RGB")
    else:
        values = _filled(image, lambda part: np.asarray(_composed(part.convert("RGBA"))))
    if isinstance(image, PngImageFile) and image.mode != "P" and "transparency" in image.info:
        values = _keyed(values, image.info["transparency"], data[24], image.mode)
    values = _upright(values, image)
    statement = _statement(image, data, values, alpha) if white in (1, FULL) else None
    return Samples(values, white, alpha, inverted, statement)


def _statement(
    image: ImageFile.ImageFile, data: bytes, values: NDArray[Any], has_alpha: bool
) -> Statement | None:
    """Return the white that the file states, None without a statement or with a contradictory one."""
    if isinstance(image, PngImageFile):
        bits = _significant_bits(data)
        return _by_bits(bits, values[..., :-1] if has_alpha else values) if 0 < bits < 16 else None
    if not isinstance(image, TiffImageFile):
        return None
    stated = image.tag_v2.get(_S_MAX_SAMPLE_VALUE, image.tag_v2.get(_MAX_SAMPLE_VALUE))
    try:
        level = float(max(stated) if isinstance(stated, tuple) else stated)
    except (TypeError, ValueError):
        return None
    # Many programs write the highest sample of the image instead, so only the number of bits is certain.
    if not 1 < level < FULL or float(values.max()) > (white := highest_of(int(level))):
        return None
    return Statement(white)


def _significant_bits(data: bytes) -> int:
    """Return the largest number of significant bits that the sBIT chunk of a PNG states, 0 without one."""
    position = 8
    while position + 8 <= len(data):
        length, kind = (
            int.from_bytes(data[position : position + 4], "big"),
            data[position + 4 : position + 8],
        )
        if kind == b"sBIT":
            colours = {2: 1, 4: 3}.get(length, length)  # without alpha
            return max(data[position + 8 : position + 8 + colours], default=0) if length <= 4 else 0
        if kind == b"IDAT":
            return 0
        position += length + 12
    return 0


def _by_bits(bits: int, values: NDArray[np.uint16]) -> Statement:
    """Return white for a number of significant bits.

    The standard asks for samples that are scaled to 16 bits, with the significant ones on top. Many cameras
    write them at the bottom instead.
    """
    white, low = (1 << bits) - 1, 16 - bits
    on_top = Statement(white << low, white << low)
    if int(values.max()) > white:
        return on_top
    if (values & np.uint16((1 << low) - 1)).any():
        return Statement(white)
    step = max(1, values.size // _SAMPLED)
    levels = np.unique(values.ravel()[::step])
    return on_top if len(levels) >= _LEAST_LEVELS else Statement(white)


def _array(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    return _filled(image, lambda part: np.asarray(part if part.mode == mode else part.convert(mode)))


def _filled(image: Image.Image, convert: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    """Return an image as an array that was converted band by band, which bounds the memory."""
    found: NDArray[Any] | None = None
    for rows in _bands(image.height, image.width):
        is_all = rows.stop - rows.start == image.height
        part = convert(image if is_all else image.crop((0, rows.start, image.width, rows.stop)))
        if is_all:
            return part.copy()
        if found is None:
            found = np.empty((image.height, *part.shape[1:]), part.dtype)
        found[rows] = part
    assert found is not None, "an image has at least one row"
    return found


def _in_bands(values: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return the conversion of an array, computed band by band, which bounds the memory."""
    found: NDArray[Any] | None = None
    for rows in _bands(values.shape[0], values.shape[1]):
        part = convert(values[rows])
        if found is None:
            found = np.empty((len(values), *part.shape[1:]), part.dtype)
        found[rows] = part
    assert found is not None, "an image has at least one row"
    return found


def _bands(height: int, width: int) -> Iterator[slice]:
    """Yield consecutive rows of an image."""
    step = max(1, _BAND_PIXELS // max(1, width))
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))


def grey_as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a read-only view (H, W, 3) that repeats the channel of a grey image (H, W)."""
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def distinct_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a view (H, W, 1) of an image from ``grey_as_rgb``, and any other image (H, W, 3) as it is."""
    return image[..., :1] if image.strides[2] == 0 else image


def _rawmode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else None
    return str(args[0] if isinstance(args, tuple) else args)


def _sixteen_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return integers of 32 bits as samples of 16.

    Raises:
        InvalidImage: if one does not fit.
    """
    if (lowest := values.min()) < 0 or (highest := values.max()) > FULL:
        raise _undefined_white(lowest, values.max() if lowest < 0 else highest)
    return np.asarray(values.astype(np.uint16))


def _check_range(values: NDArray[np.float32], white: int) -> None:
    """Check that floats are from 0 to ``white``.

    Raises:
        InvalidImage: if one is outside of the range, or not a number.
    """
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # true for NaN
        raise _undefined_white(lowest, highest)


def _whole(values: Any, scale: int) -> NDArray[np.uint16]:
    """Return floats times ``scale`` as samples of 16 bits."""
    return np.asarray(np.rint(values * np.float32(scale)).astype(np.uint16))


def _undefined_white(lowest: float, highest: float) -> InvalidImage:
    return InvalidImage(
        f"the image has 32-bit samples from {lowest:g} to {highest:g} and does not define white; "
        "save it with 8 or 16 bits, or as floats from 0 to 1",
        field="image",
    )


def _deep_colour(image: ImageFile.ImageFile, data: bytes, rawmode: re.Match[str]) -> NDArray[np.uint16]:
    """Return 16-bit samples: Pillow keeps the high bytes, a second pass in swapped order gives the low."""
    order = rawmode[2] if rawmode[2] != "N" else "L" if sys.byteorder == "little" else "B"
    low = _reread(image, data, rawmode[1] + ("L" if order == "B" else "B"))
    deep = np.empty((image.height, image.width, len(image.getbands())), np.uint16)
    for rows in _bands(image.height, image.width):
        box = (0, rows.start, image.width, rows.stop)
        deep[rows] = np.asarray(image.crop(box))
        deep[rows] <<= np.uint16(8)
        deep[rows] |= np.asarray(low.crop(box))
    return deep


def _reread(image: ImageFile.ImageFile, data: bytes, rawmode: str) -> Image.Image:
    """Return the image as another raw mode reads it."""
    copy = type(image)(BytesIO(data))
    copy.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *(tile.args or ())[1:]))
        for tile in copy.tile
    ]
    copy.load()
    return copy


def _over_black(values: NDArray[np.uint16], white: int) -> NDArray[np.uint16]:
    """Multiply the channels by alpha, the last channel, and drop it."""
    alpha = np.minimum(values[..., -1], white).astype(np.uint32)
    composed = [(values[..., i] * alpha + white // 2) // white for i in range(values.shape[2] - 1)]
    return (np.stack(composed, axis=-1) if len(composed) > 1 else composed[0]).astype(np.uint16)


def rgba_over_black(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels with alpha (H, W, 4), composed over black, as RGB (H, W, 3)."""
    return np.array(_composed(Image.fromarray(np.ascontiguousarray(pixels))))


def _composed(image: Image.Image) -> Image.Image:
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return black


def _keyed(values: NDArray[Any], key: Any, bits: int, mode: str) -> NDArray[Any]:
    """Set the one colour to black that a PNG declares transparent, given at the file's depth."""
    if mode == "L":
        key = key * 255 // ((1 << bits) - 1)
    found = values == np.array(key)
    values[found.all(axis=2) if values.ndim == 3 else found] = 0
    return values


def upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the width and height in px of an opened image after its EXIF orientation is applied."""
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: ImageFile.ImageFile) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # Pillow has applied it
    try:
        return int(image.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # an unreadable EXIF block gives no orientation
        return 1


def _upright(values: NDArray[Any], image: ImageFile.ImageFile) -> NDArray[Any]:
    orientation = _orientation(image)
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def eight_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Return samples of any shape scaled from 0 to ``white`` to 0 to 255, rounded; higher ones are 255."""
    if values.dtype == np.uint8 and white == 255:
        return values
    table = (np.arange(highest_of(white) + 1, dtype=np.uint32) * 255 + white // 2) // white
    return np.asarray(np.minimum(table, 255).astype(np.uint8)[values])
