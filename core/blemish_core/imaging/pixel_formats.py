# SPDX-License-Identifier: Apache-2.0
"""Raw pixel formats of cameras, and the unpacking of their samples.

Names and bit layouts are those of GenICam's Pixel Format Naming Convention (EMVA, PFNC 2.4), and of GigE
Vision for formats that end in "Packed".
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil, gcd

import cv2
import numpy as np
from numpy.typing import NDArray


class Packing(Enum):
    """The arrangement of samples in bytes."""

    WHOLE = "whole"
    """Whole bytes. Samples of more than 8 bits take 16, little endian, in the lower bits."""
    LEAST_FIRST = "p"
    """A stream of bits without gaps, the least significant bit first (PFNC, lsb packed)."""
    GIGE = "Packed"
    """Two samples in three bytes: the high 8 bits of the first, the low bits of both, and the high 8 bits
    of the second. The low bits of the second are in the upper half of the middle byte."""


class Colour(Enum):
    """The meaning of the samples of a pixel."""

    GREY = "grey"
    RGB = "RGB"
    BGR = "BGR"
    RGBA = "RGBa"
    BGRA = "BGRa"
    BAYER = "Bayer"
    YUYV = "YUYV"
    UYVY = "UYVY"


@dataclass(frozen=True)
class PixelFormat:
    """A raw pixel format."""

    bits: int
    """Bits of a sample."""
    colour: Colour = Colour.GREY
    packing: Packing = Packing.WHOLE
    bayer: int = 0
    """OpenCV's conversion of the Bayer pattern."""

    @property
    def channels(self) -> int:
        """Samples of a pixel as stored."""
        match self.colour:
            case Colour.RGB | Colour.BGR:
                return 3
            case Colour.RGBA | Colour.BGRA:
                return 4
            case Colour.YUYV | Colour.UYVY:
                return 2
            case _:
                return 1

    @property
    def pixel_bits(self) -> int:
        """Size of a pixel, in bits. Two pixels share their colours in YUV 4:2:2."""
        match self.packing:
            case Packing.WHOLE:
                return self.channels * (8 if self.bits <= 8 else 16)
            case Packing.LEAST_FIRST:
                return self.bits
            case Packing.GIGE:
                return 12

    def size_bytes(self, pixels: int) -> int:
        """Return the size of consecutive pixels, in bytes."""
        return ceil(pixels * self.pixel_bits / 8)

    def unpacked(self, data: bytes, width: int, height: int, stride: int) -> NDArray[np.generic]:
        """Return the samples, (H, W) or (H, W, channels) of uint8 or uint16, a view if they are not packed.

        Args:
            data: samples of the whole image, of a size that was checked.
            width: width in px.
            height: height in px.
            stride: distance of two rows in bytes; 0 if rows are not padded, not even to whole bytes.
        """
        if self.packing is not Packing.WHOLE:
            rows = np.frombuffer(data, np.uint8)
            if stride:
                row = self.size_bytes(width)
                rows = np.ndarray((height, row), np.uint8, data, strides=(stride, 1))
                return self._unpacked_rows(rows, width)
            return self._unpacked_rows(rows[None], width * height).reshape(height, width)
        sample = np.dtype("<u2" if self.bits > 8 else np.uint8)
        pixel = self.pixel_bits // 8
        shape: tuple[int, ...] = (height, width)
        strides: tuple[int, ...] = (stride or pixel * width, pixel)
        if self.channels > 1:
            shape, strides = (*shape, self.channels), (*strides, sample.itemsize)
        return np.ndarray(shape, sample, data, strides=strides)

    def _unpacked_rows(self, rows: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
        """Return ``count`` samples of each row of bytes, (rows, count)."""
        together = 2 if self.packing is Packing.GIGE else 8 // gcd(self.bits, 8)
        size = 3 if self.packing is Packing.GIGE else together * self.bits // 8
        groups = ceil(count / together)
        missing = groups * size - rows.shape[1]
        whole = np.pad(rows, ((0, 0), (0, missing))) if missing > 0 else rows[:, : groups * size]
        bytes_of = np.moveaxis(whole.reshape(len(rows), groups, size), 2, 0)
        samples = np.empty((len(rows), groups, together), np.uint16)
        if self.packing is Packing.GIGE:
            low = self.bits - 8
            mask = np.uint8((1 << low) - 1)
            samples[..., 0] = bytes_of[0].astype(np.uint16) << low | bytes_of[1] & mask
            samples[..., 1] = bytes_of[2].astype(np.uint16) << low | bytes_of[1] >> np.uint8(4) & mask
        else:
            for number in range(together):
                first, shift = divmod(number * self.bits, 8)
                value = bytes_of[first].astype(np.uint32) >> shift
                for later in range(1, ceil((shift + self.bits) / 8)):
                    value |= bytes_of[first + later].astype(np.uint32) << (8 * later - shift)
                samples[..., number] = value & ((1 << self.bits) - 1)
        return samples.reshape(len(rows), -1)[:, :count]


def yuv_to_rgb(samples: NDArray[np.uint8], colour: Colour) -> NDArray[np.uint8]:
    """Return RGB pixels (H, W, 3) of YUV 4:2:2 samples (H, W, 2) with an even width.

    Y, U and V use the full range of 8 bits, as industrial cameras send them: Y is the value of Mono8.
    """
    y, uv = samples[..., 0], samples[..., 1]
    if colour is Colour.UYVY:
        y, uv = uv, y
    u, v = (np.repeat(uv[:, start::2], 2, axis=1) for start in (0, 1))
    return np.asarray(cv2.cvtColor(np.stack([y, v, u], axis=-1), cv2.COLOR_YCrCb2RGB), np.uint8)


# GenICam names a Bayer pattern after its first row: BayerRG is red, green / green, blue.
_BAYER = {
    "RG": cv2.COLOR_BayerRGGB2RGB,
    "GB": cv2.COLOR_BayerGBRG2RGB,
    "GR": cv2.COLOR_BayerGRBG2RGB,
    "BG": cv2.COLOR_BayerBGGR2RGB,
}


def _bayer(suffix: str, bits: int, packing: Packing = Packing.WHOLE) -> dict[str, PixelFormat]:
    return {
        f"Bayer{pattern}{suffix}": PixelFormat(bits, Colour.BAYER, packing, code)
        for pattern, code in _BAYER.items()
    }


PIXEL_FORMATS: dict[str, PixelFormat] = {
    "Mono8": PixelFormat(8),
    "Mono10": PixelFormat(10),
    "Mono12": PixelFormat(12),
    "Mono14": PixelFormat(14),
    "Mono16": PixelFormat(16),
    "Mono10p": PixelFormat(10, packing=Packing.LEAST_FIRST),
    "Mono12p": PixelFormat(12, packing=Packing.LEAST_FIRST),
    "Mono14p": PixelFormat(14, packing=Packing.LEAST_FIRST),
    "Mono10Packed": PixelFormat(10, packing=Packing.GIGE),
    "Mono12Packed": PixelFormat(12, packing=Packing.GIGE),
    "RGB8": PixelFormat(8, Colour.RGB),
    "BGR8": PixelFormat(8, Colour.BGR),
    "RGBa8": PixelFormat(8, Colour.RGBA),
    "BGRa8": PixelFormat(8, Colour.BGRA),
    "YUV422_8": PixelFormat(8, Colour.YUYV),
    "YUV422_8_UYVY": PixelFormat(8, Colour.UYVY),
    **_bayer("8", 8),
    **_bayer("10", 10),
    **_bayer("12", 12),
    **_bayer("16", 16),
    **_bayer("10p", 10, Packing.LEAST_FIRST),
    **_bayer("12p", 12, Packing.LEAST_FIRST),
    **_bayer("10Packed", 10, Packing.GIGE),
    **_bayer("12Packed", 12, Packing.GIGE),
}
