# SPDX-License-Identifier: Apache-2.0
"""Images as callers have them: encoded bytes, files, messages, arrays of NumPy and images of Pillow."""

import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, cast

from blemish.v1.image_pb2 import Image, Region
from blemish_client.types.arrays import PilImage, is_pil, load_array, pil_grey, pil_samples

if TYPE_CHECKING:
    from typing_extensions import Buffer


class NumpyArray(Protocol):
    """An array of NumPy, whose types name no buffer before Python 3.12."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Samples: TypeAlias = "Buffer | NumpyArray"
"""An array with the buffer protocol."""
ImagePath: TypeAlias = "str | os.PathLike[str]"
ImageLike: TypeAlias = "bytes | ImagePath | Image | PilImage | Samples"
"""An encoded image, a path, a message, an image of Pillow, or an array as ``raw_image`` takes it.

Files are images, or arrays in ``.npy`` files. An array of one dimension of bytes is an encoded image.
"""
MaskLike: TypeAlias = "ImageLike"
"""A picture of one channel, in any form of an image. Arrays may also be of bool, and of 0 and 1."""

_ARRAY_SUFFIX = ".npy"

# Format of a sample in the buffer protocol, and number of channels.
_PIXEL_FORMATS = {
    ("B", 1): "Mono8",
    ("H", 1): "Mono16",
    ("B", 3): "RGB8",
    ("B", 4): "RGBa8",
}


def raw_image(
    samples: Samples,
    pixel_format: str = "",
    *,
    size: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
) -> Image:
    """Return the message of an uncompressed image, which the SDK takes wherever it takes an image.

    Args:
        samples: array (height, width) or (height, width, channels), for example of NumPy.
        pixel_format: format of ``RawImage``, for example BGR8, BayerRG8 or Mono12. Defaults to Mono8, RGB8
            or RGBa8 for uint8, and to Mono16 for uint16.
        size: width and height in px, for the bytes of a frame whose array has another shape, such as those
            of Mono12p and YUV422_8. Rows must not be padded.
        region: part to score: left, top, width and height in px.

    Raises:
        ValueError: if the array has another shape or type, or ``size`` is given without a format.
    """
    image = Image()
    view = _view(samples)
    if size is None:
        _set_samples(image, view, pixel_format)
    elif not pixel_format:
        raise ValueError("the size of the frame is given without its format; give pixel_format")
    else:
        image.raw.pixel_format, image.raw.data = pixel_format, view.tobytes()
        image.raw.width, image.raw.height = size
    if region is not None:
        left, top, width, height = region
        image.region.CopyFrom(Region(left=left, top=top, width=width, height=height))
    return image


def set_image(message: Image, image: ImageLike) -> None:
    """Set the content of an empty message.

    Raises:
        OSError: if ``image`` is a path, and the file cannot be read.
        ValueError: if ``image`` is an array of another shape or type than ``raw_image`` takes.
        TypeError: if it is none of the types of ``ImageLike``.
    """
    if isinstance(image, Image):
        message.CopyFrom(image)
    elif isinstance(image, bytes):
        message.encoded = image
    elif is_path(image):
        _set_file(message, Path(image))
    elif is_pil(image):
        pixel_format, size, data = pil_samples(cast(PilImage, image))
        if not pixel_format:
            message.encoded = data
            return
        message.raw.pixel_format, message.raw.data = pixel_format, data
        message.raw.width, message.raw.height = size
    elif (view := _view(cast(Samples, image))).ndim == 1 and view.format in ("B", "c"):
        message.encoded = view.tobytes()
    else:
        _set_samples(message, view, "")


def is_path(image: object) -> TypeGuard[ImagePath]:
    return isinstance(image, (str, os.PathLike))


def is_array(image: object) -> bool:
    """Return whether an object is an array of samples or of encoded bytes, rather than of other numbers."""
    try:
        view = _view(cast(Samples, image))
    except TypeError:
        return False
    return view.ndim > 1 or view.format in ("B", "c")


def mask_file(mask: MaskLike) -> bytes:
    """Return the content of a file for a mask: files and encoded images as they are, others as a PNG.

    Raises:
        OSError: if the mask is a path, and the file cannot be read.
        ValueError: if it is an array of another shape or type than (height, width) of bool or uint8.
    """
    if isinstance(mask, bytes):
        return mask
    if is_path(mask):
        if Path(mask).suffix.lower() != _ARRAY_SUFFIX:
            return Path(mask).read_bytes()
        mask = cast(Samples, load_array(mask))
    if isinstance(mask, Image):
        if mask.encoded:
            return mask.encoded
        if mask.raw.pixel_format != "Mono8" or mask.raw.stride not in (0, mask.raw.width):
            raise ValueError("the mask is a raw image with padding or several channels; use Mono8")
        return _grey_png((mask.raw.width, mask.raw.height), mask.raw.data)
    if is_pil(mask):
        return _grey_png(*pil_grey(cast(PilImage, mask)))
    view = _view(cast(Samples, mask))
    if view.ndim == 1 and view.format in ("B", "c"):
        return view.tobytes()
    if view.ndim != 2 or view.format not in ("B", "?"):
        raise ValueError(
            f"the mask has the shape {view.shape} and the type {view.format!r}; use (height, width) of "
            "bool or uint8"
        )
    height, width = view.shape or (0, 0)
    return _grey_png((width, height), view.tobytes())


def _grey_png(size: tuple[int, int], levels: bytes) -> bytes:
    """Return a PNG of 8 bits. Levels of 0 and 1 alone become black and white."""
    width, height = size
    if len(levels) != width * height:
        raise ValueError(f"the mask has {len(levels)} samples; {width} x {height} px need as many pixels")
    if not levels.strip(b"\0\1"):
        levels = levels.replace(b"\1", b"\xff")
    rows = b"".join(b"\0" + levels[start : start + width] for start in range(0, len(levels), width))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _set_file(message: Image, file: Path) -> None:
    if file.suffix.lower() == _ARRAY_SUFFIX:
        _set_samples(message, _view(cast(Samples, load_array(file))), "")
    else:
        message.encoded = file.read_bytes()


def _view(samples: Samples) -> memoryview:
    return memoryview(cast("Buffer", samples))


def _set_samples(message: Image, view: memoryview, pixel_format: str) -> None:
    shape = view.shape or ()
    channels = shape[2] if view.ndim == 3 else 1
    pixel_format = pixel_format or _PIXEL_FORMATS.get((view.format, channels), "")
    if view.ndim not in (2, 3) or not pixel_format:
        raise ValueError(
            f"the array has the shape {shape} and the type {view.format!r}; use (height, width) of "
            "uint8 or uint16, or (height, width, 3) of uint8 in the order red, green, blue"
        )
    message.raw.pixel_format = pixel_format
    message.raw.height, message.raw.width = shape[:2]
    message.raw.data = view.tobytes()
