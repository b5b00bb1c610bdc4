# SPDX-License-Identifier: Apache-2.0
"""Decoding of encoded images, the only place where they are opened.

The formats are JPEG, JPEG 2000, PNG, BMP, TIFF, WebP, PGM and PPM.

All input is treated as hostile. The size in the header is checked against the limits before any pixel is
decoded. Only Pillow's plugins for these formats run, and all their exceptions become InvalidImage.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from blemish_core.imaging import jpeg2000, pnm
from blemish_core.imaging.samples import Samples, grey_as_rgb, samples, upright_size
from blemish_core.imaging.white_level import FULL, Depth, WhiteLevel
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
    (re.escape(jpeg2000.CODESTREAM), Jpeg2KImageFile),
    (re.escape(jpeg2000.FILE), Jpeg2KImageFile),
)
_SHORTEST = 30
"""Length of the shortest header of these formats, in bytes."""

_LOSSY = ("JPEG", "JPEG2000", "WEBP")
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
    depth: Depth | None = None
    """Depth and white of an image of more than 8 bits."""
    highest: int = 0
    """Highest sample as stored, of an image of more than 8 bits."""
    stated_white: int | None = None
    """White by the format or the file itself; None without a statement, 65,535 for fractions of white."""
    white_by_format: bool = False
    """True if the format defines white, so that no other level applies."""


@dataclass(frozen=True)
class DecodedImage:
    """An image as it is scored."""

    pixels: NDArray[np.uint8]
    """RGB, (H, W, 3); a grey image is a view as of ``grey_as_rgb``."""
    depth: Depth | None = None
    """Depth and white of an image of more than 8 bits."""


_DEFAULT = ImageLimits()


def decode(
    data: bytes, limits: ImageLimits = _DEFAULT, level: WhiteLevel | None = None
) -> NDArray[np.uint8]:
    """Return the pixels of ``decode_image``."""
    return decode_image(data, limits, level).pixels


def decode_image(
    data: bytes, limits: ImageLimits = _DEFAULT, level: WhiteLevel | None = None
) -> DecodedImage:
    """Return the RGB pixels of the first frame.

    Samples of more than 8 bits are scaled so that white becomes 255. Alpha is composed over black. The
    EXIF orientation is applied; an ICC profile is not.

    Args:
        data: encoded image.
        limits: limits on the image.
        level: white level of the dataset or model. None is the rule of versions before there were levels:
            white is the highest value that the bits of a sample can hold.

    Raises:
        InvalidImage: if the bytes are not a complete image within the limits, or a sample does not fit the
            white level.
    """
    with _as_invalid_image():
        return _converted(_samples(data, limits)[1], level)


def verify(data: bytes, limits: ImageLimits = _DEFAULT, level: WhiteLevel | None = None) -> ImageHeader:
    """Decode the image completely and return its header.

    Raises:
        InvalidImage: as for ``decode_image``.
    """
    with _as_invalid_image():
        format_name, read = _samples(data, limits)
        decoded = _converted(read, level)
        height, width, _ = decoded.pixels.shape
        header = ImageHeader(format_name, width, height)
        if decoded.depth is None:
            return header
        return replace(
            header,
            depth=decoded.depth,
            highest=read.highest,
            stated_white=read.stated_white,
            white_by_format=read.white < FULL,
        )


def verify_header(data: bytes, limits: ImageLimits = _DEFAULT) -> None:
    """Check the header against the limits and the file for its end, without decoding any pixel.

    Raises:
        InvalidImage: if the bytes are not an image, are truncated, or exceed the limits.
    """
    with _as_invalid_image():
        _check_bytes(data, limits)
        if _is_pnm(data):
            _pnm_header(data, limits)
        else:
            _opened(data, limits)


def read_header(data: bytes, limits: ImageLimits = _DEFAULT) -> ImageHeader:
    """Return the format and the upright size of an image, without decoding any pixel.

    Raises:
        InvalidImage: if the bytes are not an image, are truncated, or exceed the limits.
    """
    with _as_invalid_image():
        _check_bytes(data, limits)
        if _is_pnm(data):
            header = _pnm_header(data, limits)
            return ImageHeader("PPM", header.width, header.height)
        image = _opened(data, limits)
        return ImageHeader(image.format or "", *upright_size(image))


def read_mask(data: bytes, limits: ImageLimits = _DEFAULT) -> NDArray[np.bool_]:
    """Return the non-zero pixels (H, W) of a ground-truth mask.

    Raises:
        InvalidImage: as for ``decode``, and if the format is lossy.
    """
    with _as_invalid_image():
        return np.ascontiguousarray(_samples(data, limits, refused=_LOSSY)[1].nonzero())


def thumbnail(
    data: bytes, side: int = 256, limits: ImageLimits = _DEFAULT, level: WhiteLevel | None = None
) -> bytes:
    """Return the image as a JPEG with a longer side of at most ``side`` px.

    Raises:
        InvalidImage: as for ``decode_image``.
    """
    return preview(decode(data, limits, level), side)


def preview(pixels: NDArray[np.uint8], side: int, quality: int = 85) -> bytes:
    """Return RGB pixels (H, W, 3) as a JPEG with a longer side of at most ``side`` px."""
    small = Image.fromarray(pixels)
    small.thumbnail((side, side))
    out = BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _samples(data: bytes, limits: ImageLimits, refused: tuple[str, ...] = ()) -> tuple[str, Samples]:
    """Return the format of an image and its samples; formats in ``refused`` are not accepted."""
    _check_bytes(data, limits)
    if _is_pnm(data):
        return "PPM", pnm.read_samples(data, _pnm_header(data, limits))
    image = _opened(data, limits)
    if image.format in refused:
        raise _invalid(
            f"a mask cannot be {image.format}, because compression losses would count as defects; "
            "save it as PNG, BMP or TIFF"
        )
    return image.format or "", samples(image, data)


def _is_pnm(data: bytes) -> bool:
    return re.match(pnm.MAGIC, data) is not None


def _pnm_header(data: bytes, limits: ImageLimits) -> pnm.PnmHeader:
    header = pnm.read_header(data)
    check_size(header.width, header.height, limits)
    pnm.check_complete(data, header)
    return header


def _converted(read: Samples, level: WhiteLevel | None) -> DecodedImage:
    values, depth = read.in_eight_bits(level)
    pixels = np.ascontiguousarray(values)
    return DecodedImage(grey_as_rgb(pixels) if pixels.ndim == 2 else pixels, depth)


def _check_bytes(data: bytes, limits: ImageLimits) -> None:
    if not data:
        raise _invalid("the image is empty; send the whole content of the file")
    if len(data) > limits.max_bytes:
        raise _invalid(
            f"the image has {len(data)} bytes, more than the {limits.max_bytes} that "
            "BLEMISH_MAX_IMAGE_BYTES allows; compress it or raise the setting"
        )


def _opened(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header, check it against the limits, and check that the file is complete."""
    plugin = next((plugin for magic, plugin in _MAGIC if re.match(magic, data, re.DOTALL)), None)
    if plugin is None:
        raise _invalid(
            "this is not a JPEG, JPEG 2000, PNG, BMP, TIFF, WebP, PGM or PPM image; convert it to one of "
            "these"
        )
    if len(data) < _SHORTEST:
        raise _invalid(
            f"the image is truncated after {len(data)} bytes, within its header; send the whole file"
        )
    if plugin is WebPImageFile:
        check_size(*_webp_size(data), limits)  # the plugin allocates the canvas when it opens a file
    if plugin is Jpeg2KImageFile:
        _check_jpeg2000(data, limits)
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


def _check_jpeg2000(data: bytes, limits: ImageLimits) -> None:
    """Reject sizes and features for which OpenJPEG would allocate a lot of memory."""
    header = jpeg2000.read_header(data)
    check_size(header.width, header.height, limits)
    samples_count = header.width * header.height * header.components
    if samples_count > limits.max_pixels:  # each takes four bytes and more
        raise _invalid(
            f"the JPEG 2000 has {samples_count} samples, more than the {limits.max_pixels} that "
            "BLEMISH_MAX_IMAGE_PIXELS allows for this format; scale it down, or save it as PNG or TIFF"
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
