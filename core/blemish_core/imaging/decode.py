# SPDX-License-Identifier: Apache-2.0
"""Bytes to pixels: the one place where encoded images are opened.

What comes in is hostile until proven otherwise. The size is read from the header and held against the
limits before a pixel is decoded, only the five formats' own plugins of Pillow are ever asked, and whatever
they raise leaves here as InvalidImage.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from blemish_core.imaging.samples import eight_bits, grey_as_rgb, samples
from blemish_core.platform.errors import BlemishError, InvalidImage

_PILLOW_MAX_PIXELS = 178_956_970
"""Beyond it some of Pillow's plugins refuse on their own."""

_MAX_SCANS = 100
"""Of a progressive JPEG, each a pass over all pixels: encoders write about ten, attackers a million."""

_MAGIC: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (rb"\xff\xd8\xff", JpegImageFile),
    (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    (rb"BM", BmpImageFile),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", TiffImageFile),
    (rb"RIFF....WEBP", WebPImageFile),
)
_SHORTEST = 30
"""Bytes that a header takes in any of them."""

_LOSSY = ("JPEG", "WEBP")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_FROM_PILLOW = re.compile(r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """What an image may measure; sides and pixels as they stand in its header."""

    min_side: int = 16
    max_side: int = 16_384
    max_pixels: int = 50_000_000
    max_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise ValueError(
                f"max_pixels is {self.max_pixels}, but Pillow decodes no more than {_PILLOW_MAX_PIXELS}: "
                "lower BLEMISH_MAX_IMAGE_PIXELS"
            )


@dataclass(frozen=True)
class ImageHeader:
    """``width`` and ``height`` as decoded, after the EXIF orientation; ``format`` in Pillow's spelling."""

    format: str
    width: int
    height: int


_DEFAULT = ImageLimits()


def decode(data: bytes, limits: ImageLimits = _DEFAULT) -> NDArray[np.uint8]:
    """Return the first frame's RGB pixels, (H, W, 3); of a grey image as ``grey_as_rgb`` does.

    Deeper grey and colour is scaled so that its white becomes 255, alpha is laid over black, the EXIF
    orientation is applied, an ICC profile is not.

    Raises:
        InvalidImage: if the bytes are no image, not a whole one, or not one within the limits.
    """
    return _decoded(data, limits)[1]


def check(data: bytes, limits: ImageLimits = _DEFAULT) -> ImageHeader:
    """Decode the image once to the end and return what it is.

    Raises:
        InvalidImage: as ``decode`` does.
    """
    return _decoded(data, limits)[0]


def admit(data: bytes, limits: ImageLimits = _DEFAULT) -> None:
    """Hold the header against the limits and look for the end, without decoding a pixel.

    Raises:
        InvalidImage: if the bytes are no image, cut off, or not one within the limits.
    """
    with _translated():
        _opened(data, limits)


def read_mask(data: bytes, limits: ImageLimits = _DEFAULT) -> NDArray[np.bool_]:
    """Return where a ground-truth mask is not zero, (H, W).

    Raises:
        InvalidImage: as ``decode`` does, and if the format is a lossy one.
    """
    with _translated():
        image = _opened(data, limits)
        if image.format in _LOSSY:
            raise _invalid(
                f"a mask cannot be {image.format}, whose losses would count as defects: "
                "save it as PNG, BMP or TIFF"
            )
        values, _ = samples(image, data)
        return np.ascontiguousarray(values.any(axis=2) if values.ndim == 3 else values != 0)


def thumbnail(data: bytes, side: int = 256, limits: ImageLimits = _DEFAULT) -> bytes:
    """Return the image as a JPEG whose longer side has at most ``side`` pixels.

    Raises:
        InvalidImage: as ``decode`` does.
    """
    small = Image.fromarray(decode(data, limits))
    small.thumbnail((side, side))
    out = BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def _decoded(data: bytes, limits: ImageLimits) -> tuple[ImageHeader, NDArray[np.uint8]]:
    with _translated():
        image = _opened(data, limits)
        pixels = eight_bits(*samples(image, data))
        pixels = np.ascontiguousarray(pixels)
        if pixels.ndim == 2:
            pixels = grey_as_rgb(pixels)
        height, width, _ = pixels.shape
        return ImageHeader(image.format or "", width, height), pixels


def _opened(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header, hold it against the limits, and prove that the file has an end."""
    if not data:
        raise _invalid("the image is empty: send the whole content of the file")
    if len(data) > limits.max_bytes:
        raise _invalid(
            f"the image has {len(data)} bytes, more than the {limits.max_bytes} that "
            "BLEMISH_MAX_IMAGE_BYTES allows: compress it or raise the setting"
        )
    plugin = next((plugin for magic, plugin in _MAGIC if re.match(magic, data, re.DOTALL)), None)
    if plugin is None:
        raise _invalid("this is not a JPEG, PNG, BMP, TIFF or WebP image: convert it to one of these")
    if len(data) < _SHORTEST:
        raise _invalid(
            f"the image is truncated: {len(data)} bytes are not even a header; send the whole file"
        )
    if plugin is WebPImageFile:
        check_size(*_webp_size(data), limits)  # opening it allocates the canvas
    image = plugin(BytesIO(data))
    check_size(*image.size, limits)
    if isinstance(image, PngImageFile):
        stream = BytesIO(data)
        plugin(stream).verify()
        if len(stream.read(4)) < 4:  # the last checksum
            raise _truncated(data)
    elif isinstance(image, JpegImageFile):
        _check_jpeg(data)
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, limits)
    return image


def check_size(width: int, height: int, limits: ImageLimits, *, field: str = "image") -> None:
    """Hold what an image measures against the limits.

    Raises:
        InvalidImage: naming ``field``.
    """
    if min(width, height) < limits.min_side:
        raise InvalidImage(
            f"the image is {width} x {height} px, but each side needs at least {limits.min_side}: "
            "send a larger part of the surface",
            field=field,
        )
    if max(width, height) > limits.max_side:
        raise InvalidImage(
            f"the image is {width} x {height} px, but a side may have at most {limits.max_side}: "
            "scale it down or cut it up",
            field=field,
        )
    if width * height > limits.max_pixels:
        raise InvalidImage(
            f"the image is {width} x {height} = {width * height} pixels, more than the {limits.max_pixels} "
            "that BLEMISH_MAX_IMAGE_PIXELS allows: scale it down, cut it up or raise the setting",
            field=field,
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    match data[12:16]:
        case b"VP8X":
            return number(24, 27) + 1, number(27, 30) + 1
        case b"VP8L":
            return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
        case _:
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


def _check_jpeg(data: bytes) -> None:
    """Refuse what libjpeg would work through or pass over: endless scans and a missing end."""
    position = scans = 0
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        match data[position - 1]:
            case 0xD8:
                continue
            case 0xD9:
                return
            case 0xDA:
                scans += 1
        if scans > _MAX_SCANS:
            raise _invalid(
                f"the JPEG has more than {_MAX_SCANS} scans, which no encoder writes: "
                "save it as a baseline JPEG"
            )
        position += int.from_bytes(data[position : position + 2], "big")
    raise _invalid(
        f"the JPEG is truncated: its {len(data)} bytes hold no end of image; send the whole file"
    )


def _check_tiff(image: TiffImageFile, limits: ImageLimits) -> None:
    """Refuse what Pillow would allocate without limit, or misread."""
    tile = int(image.tag_v2.get(322, 1)) * int(image.tag_v2.get(323, 1))
    if tile > limits.max_pixels:
        raise _invalid(
            f"the TIFF has tiles of {tile} pixels, more than the {limits.max_pixels} of a whole "
            "image: save it with smaller tiles or in strips"
        )
    if image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (1,))) > 8:
        raise _invalid("the TIFF keeps deep colours in separate planes: save it with interleaved channels")


def _truncated(data: bytes) -> InvalidImage:
    return _invalid(f"the image is truncated: {len(data)} bytes and no end; send the whole file")


def _invalid(reason: str) -> InvalidImage:
    return InvalidImage(reason, field="image")


@contextmanager
def _translated() -> Iterator[None]:
    """Everything that Pillow raises at hostile bytes, which is nearly anything, becomes InvalidImage."""
    if not any(entry[3] == _FROM_PILLOW for entry in warnings.filters):
        # Not catch_warnings, which threads undo for each other.
        warnings.filterwarnings("ignore", module=_FROM_PILLOW.pattern)
    try:
        yield
    except BlemishError:
        raise
    except MemoryError as error:
        raise _invalid("no memory is left to decode the image: send a smaller one, or retry") from error
    except Exception as error:
        said = str(error) or type(error).__name__
        raise _invalid(
            f"the image cannot be decoded ({said}): send the whole file, or save it anew"
        ) from error
