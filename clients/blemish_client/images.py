# SPDX-License-Identifier: Apache-2.0
"""Images as callers have them: encoded bytes, messages, and arrays of samples."""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from blemish.v1.image_pb2 import Image, Region

if TYPE_CHECKING:
    from typing_extensions import Buffer


class NumpyArray(Protocol):
    """An array of NumPy, whose types name no buffer before Python 3.12."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Samples: TypeAlias = "Buffer | NumpyArray"
"""An array with the buffer protocol."""
ImageLike: TypeAlias = "bytes | Image | Samples"
"""An encoded image, a message, or an array as ``raw_image`` takes it."""

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
        ValueError: if ``image`` is an array of another shape or type than ``raw_image`` takes.
    """
    if isinstance(image, Image):
        message.CopyFrom(image)
    elif isinstance(image, bytes):
        message.encoded = image
    elif (view := _view(image)).ndim == 1 and view.format in ("B", "c"):
        message.encoded = view.tobytes()
    else:
        _set_samples(message, view, "")


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
