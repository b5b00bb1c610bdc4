# SPDX-License-Identifier: Apache-2.0
"""Samples of an image that Pillow has opened: upright, alpha composed over black, at 8 or 16 bits."""

import re
import sys
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from blemish_core.platform.errors import InvalidImage

_SIXTEEN_BITS = re.compile(r"(RGBA?;16)([BLN])")


def samples(image: ImageFile.ImageFile, data: bytes) -> tuple[NDArray[Any], int]:
    """Return upright samples at their stored depth, (H, W) or (H, W, 3), and the value of white."""
    rawmode = _rawmode(image)  # load() discards it
    image.load()
    values: NDArray[Any]
    white = 255
    if image.mode.startswith("I;16"):
        values, white = np.array(image).astype(np.uint16), 65_535
        if isinstance(image, TiffImageFile):
            white = (1 << image.tag_v2.get(258, (16,))[0]) - 1
            if image.tag_v2.get(262) == 0:  # white is zero; Pillow inverts 8-bit samples only
                values = np.uint16(white) - values
    elif image.mode in ("I", "F"):
        values, white = _scaled(np.array(image), image.mode)
    elif rawmode == "LA;16B":
        values, white = _over_black(_reread(image, data, "RGBA").view(">u2"))[..., 0], 65_535
    elif deep := _SIXTEEN_BITS.fullmatch(rawmode):
        values, white = _deep_colour(image, data, deep), 65_535
    elif image.mode in ("1", "L"):
        values = _array(image, "L")
    elif image.mode == "RGB" or not image.has_transparency_data:
        values = _array(image, "RGB")
    else:
        values = np.array(_composed(image.convert("RGBA")))
    if isinstance(image, PngImageFile) and image.mode != "P" and "transparency" in image.info:
        values = _keyed(values, image.info["transparency"], data[24], image.mode)
    return _upright(values, image), white


def _array(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    converted = image if image.mode == mode else image.convert(mode)
    return np.asarray(converted).copy()  # np.array() would copy twice


def grey_as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a read-only view (H, W, 3) that repeats the channel of a grey image (H, W)."""
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def distinct_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a view (H, W, 1) of an image from ``grey_as_rgb``, and any other image (H, W, 3) as it is."""
    return image[..., :1] if image.strides[2] == 0 else image


def _rawmode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else None
    return str(args[0] if isinstance(args, tuple) else args)


def _scaled(values: NDArray[Any], mode: str) -> tuple[NDArray[np.uint16], int]:
    """Interpret integers as 16-bit samples, and floats as fractions of white."""
    lowest, highest = values.min(), values.max()
    if mode == "I" and lowest >= 0 and highest <= 65_535:
        return values.astype(np.uint16), 65_535
    if mode == "F" and lowest >= 0 and highest <= 1:  # false for NaN
        return np.rint(values * np.float32(65_535)).astype(np.uint16), 65_535
    raise InvalidImage(
        f"the image has 32-bit samples from {lowest:g} to {highest:g} and does not define white; "
        "save it with 8 or 16 bits, or as floats from 0 to 1",
        field="image",
    )


def _deep_colour(image: ImageFile.ImageFile, data: bytes, rawmode: re.Match[str]) -> NDArray[np.uint16]:
    """Return 16-bit samples: Pillow keeps the high bytes, a second pass in swapped order gives the low."""
    order = rawmode[2] if rawmode[2] != "N" else "L" if sys.byteorder == "little" else "B"
    low = _reread(image, data, rawmode[1] + ("L" if order == "B" else "B"))
    deep: NDArray[np.uint16] = np.array(image).astype(np.uint16) << np.uint16(8) | low
    return _over_black(deep) if deep.shape[2] == 4 else deep


def _reread(image: ImageFile.ImageFile, data: bytes, rawmode: str) -> NDArray[np.uint8]:
    copy = type(image)(BytesIO(data))
    copy.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *(tile.args or ())[1:]))
        for tile in copy.tile
    ]
    return np.array(copy)


def _over_black(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Multiply the channels by alpha, the last channel, and drop it."""
    alpha = values[..., -1].astype(np.uint32)
    composed = [(values[..., i] * alpha + 32_767) // 65_535 for i in range(values.shape[2] - 1)]
    return np.stack(composed, axis=-1).astype(np.uint16)


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


def _upright(values: NDArray[Any], image: ImageFile.ImageFile) -> NDArray[Any]:
    if isinstance(image, TiffImageFile):
        return values  # Pillow has applied it
    try:
        orientation = image.getexif().get(ExifTag.Orientation, 1)
    except Exception:  # an unreadable EXIF block gives no orientation
        return values
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def eight_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Return samples of any shape scaled from 0 to ``white`` to 0 to 255, rounded."""
    if white == 255:
        return values
    table = (np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white
    return np.asarray(table.astype(np.uint8)[values])
