# SPDX-License-Identifier: Apache-2.0
"""Good images with a spot in them that does not belong there, and as the camera might see them tomorrow.

The spots look like no defect in particular. They show which features of a patch change when something small
in it does, and which hardly ever; another light, focus or noise shows which change though nothing is wrong.
Pasting comes from CutPaste (Li et al., CVPR 2021, arXiv:2104.04015) and DRAEM (Zavrtanik et al., ICCV 2021,
arXiv:2108.07610); here no network learns from what it makes.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.float32]
"""(S, S, 3), 0 to 1."""
Mask = NDArray[np.bool_]
"""(S, S)."""

_SIDE = 256.0
"""Lengths below are px of an image of this side."""
_FEWEST_PIXELS = 6
# Of the image's range from its darkest to its brightest: what changes less nobody would see.
_LEAST_CHANGE = 0.06
_TRIES = 20  # an image of one colour changes by few of the contents
# What a camera does to an image from one day to another.
_LIGHT = 0.15  # share, to either side
_NOISE = 3 / 255  # standard deviation, at most
_DEFOCUS = 0.6  # likewise, of a blur, px
_SHARP = 0.2  # of a blur that is none


def alter(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Return an image (3, S, S), 0 to 1, with a spot of it altered, and where that is: bool (S, S)."""
    pixels = _pixels(image)
    least = _LEAST_CHANGE * _span(pixels)
    for _ in range(_TRIES):
        spot = _spot(len(pixels), random)
        content = _CONTENTS[random.integers(len(_CONTENTS))](pixels, random)
        soft = cv2.GaussianBlur(spot.astype(np.float32), (0, 0), random.uniform(0.3, 1.0))[..., None]
        result = (pixels + soft * (content - pixels)).clip(0, 1)
        if np.abs(result - pixels).max() >= least:
            break
    return _image(result), torch.from_numpy(spot)


def disturb(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Return an image as ``alter`` does, in another light, a little out of focus and noisier all over."""
    pixels = _pixels(image) * np.float32(random.uniform(1 - _LIGHT, 1 + _LIGHT))
    if (defocus := random.uniform(0, _DEFOCUS)) > _SHARP:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), defocus))
    noise = random.standard_normal(pixels.shape, np.float32)
    noisier = pixels + noise * np.float32(random.uniform(0, _NOISE))
    return _image(noisier.clip(0, 1)), torch.ones(pixels.shape[:2], dtype=torch.bool)


def _pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _image(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


# Where


def _spot(side: int, random: Generator) -> Mask:
    while True:
        spot = _SPOTS[random.integers(len(_SPOTS))](side, random)
        if spot.sum() >= _FEWEST_PIXELS:  # as half of the draws have at 64 px, the least side allowed
            return spot


def _ellipse(side: int, random: Generator) -> Mask:
    along, across = _axes(side, random)
    half, other = (_log_uniform(1.5, 20, random) * side / _SIDE for _ in range(2))
    return (along / half) ** 2 + (across / other) ** 2 < 1


def _line(side: int, random: Generator) -> Mask:
    along, across = _axes(side, random)
    half = _log_uniform(4, 40, random) * side / _SIDE
    width = _log_uniform(1, 4, random) * side / _SIDE
    bend = random.uniform(-0.02, 0.02) * along**2 / half
    return (np.abs(along) < half) & (np.abs(across + bend) < width)


def _blob(side: int, random: Generator) -> Mask:
    along, across = _axes(side, random)
    radius = _log_uniform(4, 20, random) * side / _SIDE
    noise = random.standard_normal((side, side), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), random.uniform(2, 8) * side / _SIDE)
    rough: Mask = smooth > np.median(smooth)
    return rough & (along**2 + across**2 < radius**2)


def _axes(side: int, random: Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates (S, S) along and across a direction, from a center well within the image."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    row, column = random.uniform(0.08, 0.92, 2).astype(np.float32) * side
    angle = np.float32(random.uniform(0, np.pi))
    down, right = rows - row, columns - column
    return right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)


def _log_uniform(low: float, high: float, random: Generator) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


# What is there instead


def _elsewhere(pixels: Pixels, random: Generator) -> Pixels:
    side = len(pixels)
    return np.roll(pixels, random.integers(side // 8, side - side // 8, 2), (0, 1))


def _moved(pixels: Pixels, random: Generator) -> Pixels:
    far = round(8 * len(pixels) / _SIDE) + 1
    return np.roll(pixels, random.integers(-far, far + 1, 2), (0, 1))


def _blurred(pixels: Pixels, random: Generator) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), random.uniform(1.5, 5) * len(pixels) / _SIDE))


def _lighter(pixels: Pixels, random: Generator) -> Pixels:
    darkest = pixels.min()
    lighter: Pixels = darkest + (pixels - darkest) * np.float32(_log_uniform(0.6, 1.65, random))
    return lighter


def _one_colour(pixels: Pixels, random: Generator) -> Pixels:
    row, column = random.integers(len(pixels), size=2)
    return np.broadcast_to(pixels[row, column], pixels.shape)


def _tinted(pixels: Pixels, random: Generator) -> Pixels:
    return pixels + np.float32(_span(pixels)) * random.uniform(-0.25, 0.25, 3).astype(np.float32)


def _span(pixels: Pixels) -> float:
    return float(pixels.max() - pixels.min())


_SPOTS: tuple[Callable[[int, Generator], Mask], ...] = (_ellipse, _line, _blob)
_CONTENTS: tuple[Callable[[Pixels, Generator], Pixels], ...] = (
    _elsewhere,
    _moved,
    _blurred,
    _lighter,
    _one_colour,
    _tinted,
)
