# SPDX-License-Identifier: Apache-2.0
"""Synthetic changes of good images: small anomalies, and harmless changes of light, focus and noise.

The anomalies imitate no particular defect. They show which features of a patch react to a local change, and
harmless changes show which features react although nothing is wrong. Pasting follows CutPaste (Li et al.,
CVPR 2021, arXiv:2104.04015) and DRAEM (Zavrtanik et al., ICCV 2021, arXiv:2108.07610), but no network is
trained on the results.
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
"""Reference side: lengths below are px of an image of this size."""
_MIN_PIXELS = 6
# Smallest visible change, relative to the range from the darkest to the brightest value of the image.
_MIN_CHANGE = 0.06
_TRIES = 20  # few of the contents change an image of one colour
# Harmless variation of a camera over time.
_LIGHT = 0.15  # largest relative change of brightness
_NOISE = 3 / 255  # largest standard deviation
_DEFOCUS = 0.6  # largest standard deviation of a blur, px
_SHARP = 0.2  # blur below which the image stays as it is, px


def alter(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Return an image (3, S, S), 0 to 1, with a synthetic anomaly, and its mask, bool (S, S)."""
    pixels = _pixels(image)
    least = _MIN_CHANGE * _span(pixels)
    for _ in range(_TRIES):
        mask = _shape(len(pixels), random)
        content = _CONTENTS[random.integers(len(_CONTENTS))](pixels, random)
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), random.uniform(0.3, 1.0))[..., None]
        result = (pixels + soft * (content - pixels)).clip(0, 1)
        if np.abs(result - pixels).max() >= least:
            break
    return _image(result), torch.from_numpy(mask)


def disturb(image: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Return an image with changed brightness, focus and noise, and a mask of all pixels."""
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


# Shapes


def _shape(side: int, random: Generator) -> Mask:
    while True:
        mask = _SHAPES[random.integers(len(_SHAPES))](side, random)
        if mask.sum() >= _MIN_PIXELS:  # half of the draws are too small at 64 px, the smallest input
            return mask


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
    """Return coordinates (S, S) along and across a random direction, around a random center."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    row, column = random.uniform(0.08, 0.92, 2).astype(np.float32) * side
    angle = np.float32(random.uniform(0, np.pi))
    down, right = rows - row, columns - column
    return right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)


def _log_uniform(low: float, high: float, random: Generator) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


# Contents


def _other_part(pixels: Pixels, random: Generator) -> Pixels:
    side = len(pixels)
    return np.roll(pixels, random.integers(side // 8, side - side // 8, 2), (0, 1))


def _shifted(pixels: Pixels, random: Generator) -> Pixels:
    far = round(8 * len(pixels) / _SIDE) + 1
    return np.roll(pixels, random.integers(-far, far + 1, 2), (0, 1))


def _blurred(pixels: Pixels, random: Generator) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), random.uniform(1.5, 5) * len(pixels) / _SIDE))


def _brightness_changed(pixels: Pixels, random: Generator) -> Pixels:
    darkest = pixels.min()
    changed: Pixels = darkest + (pixels - darkest) * np.float32(_log_uniform(0.6, 1.65, random))
    return changed


def _one_colour(pixels: Pixels, random: Generator) -> Pixels:
    row, column = random.integers(len(pixels), size=2)
    return np.broadcast_to(pixels[row, column], pixels.shape)


def _tinted(pixels: Pixels, random: Generator) -> Pixels:
    return pixels + np.float32(_span(pixels)) * random.uniform(-0.25, 0.25, 3).astype(np.float32)


def _span(pixels: Pixels) -> float:
    return float(pixels.max() - pixels.min())


_SHAPES: tuple[Callable[[int, Generator], Mask], ...] = (_ellipse, _line, _blob)
_CONTENTS: tuple[Callable[[Pixels, Generator], Pixels], ...] = (
    _other_part,
    _shifted,
    _blurred,
    _brightness_changed,
    _one_colour,
    _tinted,
)
