# SPDX-License-Identifier: Apache-2.0
"""A received image, encoded or raw from a camera, and its conversion to RGB pixels."""

from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.decode import DecodedImage, ImageLimits, check_size, decode_image
from blemish_core.imaging.pixel_formats import PIXEL_FORMATS, Colour, Packing, PixelFormat, yuv_to_rgb
from blemish_core.imaging.samples import Samples, grey_as_rgb, rgba_over_black
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.errors import InvalidImage

_Sample = TypeVar("_Sample", bound=np.generic)


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

    def pixels(self, limits: ImageLimits, level: WhiteLevel | None = None) -> NDArray[np.uint8]:
        """Return the pixels of ``decoded``."""
        return self.decoded(limits, level).pixels

    def decoded(self, limits: ImageLimits, level: WhiteLevel | None = None) -> DecodedImage:
        """Return the image or its region as RGB pixels (H, W, 3), possibly a read-only view.

        Args:
            limits: limits on the image.
            level: white level of the model; None for the rule of versions without one, see
                ``decode_image``.

        Raises:
            InvalidImage: if the data is not a complete image within the limits, or the region exceeds it.
        """
        if self.layout is None:
            found = decode_image(self.data, limits, level)
            return replace(found, pixels=self._crop(found.pixels, limits))
        kind = _pixel_format(self.layout)
        samples = _samples(self.data, self.layout, kind, limits)
        whole = kind.colour in (Colour.BAYER, Colour.YUYV, Colour.UYVY)
        if not whole:
            # Where colours depend on neighbouring pixels, crop after the conversion.
            samples = self._crop(samples, limits)
        values, depth = Samples(samples, white=(1 << kind.bits) - 1).in_eight_bits(level)
        pixels = _as_rgb(values, kind)
        return DecodedImage(self._crop(pixels, limits) if whole else pixels, depth)

    def whole(self, limits: ImageLimits, level: WhiteLevel | None = None) -> DecodedImage:
        """Return the whole image, after a check of the region.

        Raises:
            InvalidImage: as for ``decoded``.
        """
        found = replace(self, region=None).decoded(limits, level)
        self._crop(found.pixels, limits)
        return found

    def _crop(self, pixels: NDArray[_Sample], limits: ImageLimits) -> NDArray[_Sample]:
        region = self.region
        if region is None:
            return pixels
        cropped = region.crop(pixels)
        check_size(region.width, region.height, limits, field="image.region", noun="region")
        return cropped


def _pixel_format(layout: RawLayout) -> PixelFormat:
    kind = PIXEL_FORMATS.get(layout.pixel_format)
    if kind is None:
        raise InvalidImage(
            f"the pixel format {layout.pixel_format[:40]!r} is none of {', '.join(PIXEL_FORMATS)}; set the "
            "camera to one of these, or convert the image",
            field="image.raw.pixel_format",
        )
    return kind


def _samples(data: bytes, layout: RawLayout, kind: PixelFormat, limits: ImageLimits) -> NDArray[np.generic]:
    """Return the samples, (H, W) or (H, W, channels), at their stored depth."""
    name, width, height, stride = layout.pixel_format, layout.width, layout.height, layout.stride
    check_size(width, height, limits, field="image.raw")
    if kind.colour in (Colour.YUYV, Colour.UYVY) and width % 2:
        raise InvalidImage(
            f"the width is {width} px, but two pixels of {name} share their colours; send an even width",
            field="image.raw.width",
        )
    row = kind.size_bytes(width)
    if stride and stride < row:
        raise InvalidImage(
            f"the stride is {stride} bytes, but {width} pixels of {name} take {row}; "
            "send the distance between the starts of two rows, or 0",
            field="image.raw.stride",
        )
    # Without a stride, rows of packed pixels follow each other even within a byte.
    full = stride * height if stride else kind.size_bytes(width * height)
    least = stride * (height - 1) + row if stride else full
    if len(data) not in (least, full):
        rows = (
            f"{stride or row} bytes a row"
            if stride or not width * kind.pixel_bits % 8
            else "without padding"
        )
        raise InvalidImage(
            f"{width} x {height} px of {name}, {rows}, are {full} bytes, but {len(data)} were received; "
            "send exactly one frame",
            field="image.raw.data",
        )
    samples = kind.unpacked(data, width, height, stride)
    white = (1 << kind.bits) - 1
    if kind.packing is Packing.WHOLE and kind.bits % 8 and (highest := int(samples.max())) > white:
        raise InvalidImage(
            f"a sample is {highest}, but the white of {name} is {white}; send samples in "
            "the lower bits of 16, little endian",
            field="image.raw.pixel_format",
        )
    return samples


def _as_rgb(samples: NDArray[np.uint8], kind: PixelFormat) -> NDArray[np.uint8]:
    """Return samples of 8 bits, (H, W) or (H, W, channels), as RGB pixels (H, W, 3)."""
    match kind.colour:
        case Colour.GREY:
            return grey_as_rgb(samples)
        case Colour.RGB:
            return samples
        case Colour.BGR:
            return np.ascontiguousarray(samples[..., ::-1])
        case Colour.RGBA:
            return rgba_over_black(samples)
        case Colour.BGRA:
            return rgba_over_black(samples[..., [2, 1, 0, 3]])
        case Colour.BAYER:
            return np.asarray(cv2.cvtColor(samples, kind.bayer), np.uint8)
        case Colour.YUYV | Colour.UYVY:
            return yuv_to_rgb(samples, kind.colour)
