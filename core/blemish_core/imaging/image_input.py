# SPDX-License-Identifier: Apache-2.0
"""A received image, encoded or raw from a camera, and its conversion to RGB pixels.

Raw formats have the names of GenICam's Pixel Format Naming Convention (EMVA, PFNC 2.4). Samples are
unpacked; those of more than 8 bits are 16-bit little endian. Rows run from top to bottom, ``stride`` bytes
apart.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits, check_size, decode
from blemish_core.imaging.samples import eight_bits, grey_as_rgb
from blemish_core.platform.errors import InvalidImage

_Sample = TypeVar("_Sample", bound=np.generic)


@dataclass(frozen=True)
class _PixelFormat:
    bits: int
    channels: int = 1
    to_rgb: int | None = None
    """OpenCV's conversion code; None if the samples are grey or RGB."""

    @property
    def bytes(self) -> int:
        """Size of one pixel, in bytes."""
        return self.channels * (2 if self.bits > 8 else 1)


# GenICam names a Bayer pattern after its first row: BayerRG is red, green / green, blue.
PIXEL_FORMATS = {
    "Mono8": _PixelFormat(8),
    "Mono10": _PixelFormat(10),
    "Mono12": _PixelFormat(12),
    "Mono16": _PixelFormat(16),
    "RGB8": _PixelFormat(8, 3),
    "BGR8": _PixelFormat(8, 3, cv2.COLOR_BGR2RGB),
    "BayerRG8": _PixelFormat(8, 1, cv2.COLOR_BayerRGGB2RGB),
    "BayerGB8": _PixelFormat(8, 1, cv2.COLOR_BayerGBRG2RGB),
    "BayerGR8": _PixelFormat(8, 1, cv2.COLOR_BayerGRBG2RGB),
    "BayerBG8": _PixelFormat(8, 1, cv2.COLOR_BayerBGGR2RGB),
}


@dataclass(frozen=True)
class RawLayout:
    """Layout of a raw image: size in px, and distance of two rows in bytes (0 if rows are not padded)."""

    pixel_format: str
    width: int
    height: int
    stride: int = 0


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in px from its top left corner."""

    left: int
    top: int
    width: int
    height: int

    def bounds_error(self, shape: tuple[int, int]) -> str:
        """Return why the region exceeds an image of ``shape`` (H, W), or an empty string if it does not."""
        height, width = shape
        right, bottom = self.left + self.width, self.top + self.height
        if min(self.left, self.top) >= 0 and right <= width and bottom <= height:
            return ""
        return (
            f"the region is {self.width} x {self.height} px at ({self.left}, {self.top}), but the image is "
            f"{width} x {height}; choose a region within it"
        )

    def crop(self, pixels: NDArray[_Sample]) -> NDArray[_Sample]:
        """Return the region of an image (H, W, ...), a view.

        Raises:
            InvalidImage: if the region exceeds the image.
        """
        height, width = pixels.shape[:2]
        if reason := self.bounds_error((height, width)):
            raise InvalidImage(reason, field="image.region")
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class ImageInput:
    """Image bytes as received and the region of interest; ``pixels`` validates them."""

    data: bytes
    layout: RawLayout | None = None
    """Layout of raw samples; None if ``data`` is an encoded image."""
    region: Region | None = None
    """Part of the image to score; None for all of it."""

    def pixels(self, limits: ImageLimits) -> NDArray[np.uint8]:
        """Return RGB pixels (H, W, 3), possibly a read-only view.

        Raises:
            InvalidImage: if the data is not a complete image within the limits, or the region exceeds it.
        """
        if self.layout is None:
            return self._crop(decode(self.data, limits), limits)
        samples, kind = _samples(self.data, self.layout, limits), PIXEL_FORMATS[self.layout.pixel_format]
        if kind.channels == 1 and kind.to_rgb is not None:
            # Crop after the conversion, which reads neighbouring pixels and depends on the position.
            return self._crop(np.asarray(cv2.cvtColor(samples, kind.to_rgb), np.uint8), limits)
        samples = self._crop(samples, limits)
        if kind.to_rgb is not None:
            return np.asarray(cv2.cvtColor(samples, kind.to_rgb), np.uint8)
        return grey_as_rgb(_eight_bits(samples, self.layout, kind)) if kind.channels == 1 else samples

    def frame(self, limits: ImageLimits) -> NDArray[np.uint8]:
        """Return RGB pixels (H, W, 3) of the whole image, after a check of the region.

        Raises:
            InvalidImage: as for ``pixels``.
        """
        whole = replace(self, region=None).pixels(limits)
        self._crop(whole, limits)
        return whole

    def _crop(self, pixels: NDArray[np.uint8], limits: ImageLimits) -> NDArray[np.uint8]:
        region = self.region
        if region is None:
            return pixels
        cropped = region.crop(pixels)
        check_size(region.width, region.height, limits, field="image.region", noun="region")
        return cropped


def _samples(data: bytes, layout: RawLayout, limits: ImageLimits) -> NDArray[np.uint8]:
    """Return a view of the samples, (H, W) or (H, W, 3), at their stored depth."""
    kind = PIXEL_FORMATS.get(layout.pixel_format)
    if kind is None:
        raise InvalidImage(
            f"the pixel format {layout.pixel_format[:40]!r} is none of {', '.join(PIXEL_FORMATS)}; set the "
            "camera to one of these, or convert the image",
            field="image.raw.pixel_format",
        )
    check_size(layout.width, layout.height, limits, field="image.raw")
    row = layout.width * kind.bytes
    stride = layout.stride or row
    if stride < row:
        raise InvalidImage(
            f"the stride is {stride} bytes, but {layout.width} pixels of {layout.pixel_format} take {row}; "
            "send the distance between the starts of two rows, or 0",
            field="image.raw.stride",
        )
    needed = stride * (layout.height - 1) + row
    if len(data) not in (needed, stride * layout.height):
        raise InvalidImage(
            f"{layout.width} x {layout.height} px of {layout.pixel_format}, {stride} bytes a row, are "
            f"{stride * layout.height} bytes, but {len(data)} were received; send exactly one frame",
            field="image.raw.data",
        )
    sample = np.dtype("<u2" if kind.bits > 8 else np.uint8)
    shape: tuple[int, ...] = (layout.height, layout.width)
    strides: tuple[int, ...] = (stride, kind.bytes)
    if kind.channels > 1:
        shape, strides = (*shape, kind.channels), (*strides, sample.itemsize)
    return np.ndarray(shape, sample, data, strides=strides)


def _eight_bits(samples: NDArray[np.uint8], layout: RawLayout, kind: _PixelFormat) -> NDArray[np.uint8]:
    white = (1 << kind.bits) - 1
    if kind.bits % 8 and (highest := int(samples.max())) > white:
        raise InvalidImage(
            f"a sample is {highest}, but the white of {layout.pixel_format} is {white}; send samples in "
            "the lower bits of 16, little endian",
            field="image.raw.pixel_format",
        )
    return eight_bits(samples, white)
