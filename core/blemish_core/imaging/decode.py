# SPDX-License-Identifier: Apache-2.0
"""Decoding of JPEG, PNG, BMP, TIFF and WebP, the only place where encoded images are opened.

All input is treated as hostile. The size in the header is checked against the limits before any pixel is
decoded. Only Pillow's plugins for these five formats run, and all their exceptions become InvalidImage.
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
"""Largest image that all of Pillow's plugins accept."""

_MAX_SCANS = 100
"""Most scans of a progressive JPEG. Each is a pass over all pixels: an attacker could send a million."""

_MAGIC: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (rb"\xff\xd8\xff", JpegImageFile),
    (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    (rb"BM", BmpImageFile),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", TiffImageFile),
    (rb"RIFF....WEBP", WebPImageFile),
)
_SHORTEST = 30
"""Length of the shortest header of these formats, in bytes."""

_LOSSY = ("JPEG", "WEBP")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_FROM_PILLOW = re.compile(r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """Limits on an image: sides in px, pixels and encoded bytes, as stated in the header."""

    min_side: int = 16
    max_side: int = 16_384
    max_pixels: int = 50_000_000
    max_bytes: int = 32 << 20

    def __post_init__(self) -> None:
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise ValueError(
                f"max_pixels is {self.max_pixels}, but Pillow decodes at most {_PILLOW_MAX_PIXELS}; "
                "lower BLEMISH_MAX_IMAGE_PIXELS"
            )


@dataclass(frozen=True)
class ImageHeader:
    """Format in Pillow's spelling, and width and height in px after the EXIF orientation was applied."""

    format: str
    width: int
    height: int


_DEFAULT = ImageLimits()


def decode(data: bytes, limits: ImageLimits = _DEFAULT) -> NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of the first frame; a grey image is a view as of ``grey_as_rgb``.

    Samples of more than 8 bits are scaled so that white becomes 255. Alpha is composed over black. The
    EXIF orientation is applied; an ICC profile is not.

    Raises:
        InvalidImage: if the bytes are not a complete image within the limits.
    """
    return _decoded(data, limits)[1]


def verify(data: bytes, limits: ImageLimits = _DEFAULT) -> ImageHeader:
    """Decode the image completely and return its header.

    Raises:
        InvalidImage: as for ``decode``.
    """
    return _decoded(data, limits)[0]


def verify_header(data: bytes, limits: ImageLimits = _DEFAULT) -> None:
    """Check the header against the limits and the file for its end, without decoding any pixel.

    Raises:
        InvalidImage: if the bytes are not an image, are truncated, or exceed the limits.
    """
    with _as_invalid_image():
        _opened(data, limits)


def read_mask(data: bytes, limits: ImageLimits = _DEFAULT) -> NDArray[np.bool_]:
    """Return the non-zero pixels (H, W) of a ground-truth mask.

    Raises:
        InvalidImage: as for ``decode``, and if the format is lossy.
    """
    with _as_invalid_image():
        image = _opened(data, limits)
        if image.format in _LOSSY:
            raise _invalid(
                f"a mask cannot be {image.format}, because compression losses would count as defects; "
                "save it as PNG, BMP or TIFF"
            )
        values, _ = samples(image, data)
        return np.ascontiguousarray(values.any(axis=2) if values.ndim == 3 else values != 0)


def thumbnail(data: bytes, side: int = 256, limits: ImageLimits = _DEFAULT) -> bytes:
    """Return the image as a JPEG with a longer side of at most ``side`` px.

    Raises:
        InvalidImage: as for ``decode``.
    """
    small = Image.fromarray(decode(data, limits))
    small.thumbnail((side, side))
    out = BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def _decoded(data: bytes, limits: ImageLimits) -> tuple[ImageHeader, NDArray[np.uint8]]:
    with _as_invalid_image():
        image = _opened(data, limits)
        pixels = eight_bits(*samples(image, data))
        pixels = np.ascontiguousarray(pixels)
        if pixels.ndim == 2:
            pixels = grey_as_rgb(pixels)
        height, width, _ = pixels.shape
        return ImageHeader(image.format or "", width, height), pixels


def _opened(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header, check it against the limits, and check that the file is complete."""
    if not data:
        raise _invalid("the image is empty; send the whole content of the file")
    if len(data) > limits.max_bytes:
        raise _invalid(
            f"the image has {len(data)} bytes, more than the {limits.max_bytes} that "
            "BLEMISH_MAX_IMAGE_BYTES allows; compress it or raise the setting"
        )
    plugin = next((plugin for magic, plugin in _MAGIC if re.match(magic, data, re.DOTALL)), None)
    if plugin is None:
        raise _invalid("this is not a JPEG, PNG, BMP, TIFF or WebP image; convert it to one of these")
    if len(data) < _SHORTEST:
        raise _invalid(
            f"the image is truncated after {len(data)} bytes, within its header; send the whole file"
        )
    if plugin is WebPImageFile:
        check_size(*_webp_size(data), limits)  # the plugin allocates the canvas when it opens a file
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


def check_size(
    width: int, height: int, limits: ImageLimits, *, field: str = "image", noun: str = "image"
) -> None:
    """Check the size in px of an image, or of what ``noun`` names, against the limits.

    Raises:
        InvalidImage: if the size is outside the limits; the error names ``field``.
    """
    if min(width, height) < limits.min_side:
        raise InvalidImage(
            f"the {noun} is {width} x {height} px, but each side needs at least {limits.min_side}; "
            "send a larger part of the surface",
            field=field,
        )
    if max(width, height) > limits.max_side:
        raise InvalidImage(
            f"the {noun} is {width} x {height} px, but a side may have at most {limits.max_side}; "
            "scale it down or split it",
            field=field,
        )
    if width * height > limits.max_pixels:
        raise InvalidImage(
            f"the {noun} is {width} x {height} = {width * height} pixels, more than the "
            f"{limits.max_pixels} that BLEMISH_MAX_IMAGE_PIXELS allows; scale it down, split it or raise "
            "the setting",
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
    """Reject excessive scans, which libjpeg would decode, and a missing end, which it would ignore."""
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
                f"the JPEG has more than {_MAX_SCANS} scans, which no encoder writes; "
                "save it as a baseline JPEG"
            )
        position += int.from_bytes(data[position : position + 2], "big")
    raise _invalid(
        f"the JPEG is truncated, its {len(data)} bytes contain no end of image; send the whole file"
    )


def _check_tiff(image: TiffImageFile, limits: ImageLimits) -> None:
    """Reject files that Pillow would misread, or for which it would allocate unlimited memory."""
    tile = int(image.tag_v2.get(322, 1)) * int(image.tag_v2.get(323, 1))
    if tile > limits.max_pixels:
        raise _invalid(
            f"the TIFF has tiles of {tile} pixels, more than the {limits.max_pixels} of a whole "
            "image; save it with smaller tiles or in strips"
        )
    if image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (1,))) > 8:
        raise _invalid("the TIFF has 16-bit colours in separate planes; save it with interleaved channels")


def _truncated(data: bytes) -> InvalidImage:
    return _invalid(f"the image is truncated, its {len(data)} bytes contain no end; send the whole file")


def _invalid(reason: str) -> InvalidImage:
    return InvalidImage(reason, field="image")


@contextmanager
def _as_invalid_image() -> Iterator[None]:
    """Convert all exceptions to InvalidImage, because hostile bytes make Pillow raise nearly any type."""
    if not any(entry[3] == _FROM_PILLOW for entry in warnings.filters):
        # Not catch_warnings(), which is not safe in several threads at once.
        warnings.filterwarnings("ignore", module=_FROM_PILLOW.pattern)
    try:
        yield
    except BlemishError:
        raise
    except MemoryError as error:
        raise _invalid("too little memory to decode the image; send a smaller one, or retry") from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise _invalid(
            f"the image cannot be decoded ({reason}); send the whole file, or save it again"
        ) from error
