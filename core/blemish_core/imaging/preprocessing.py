# SPDX-License-Identifier: Apache-2.0
"""The one way from pixels to a model's input, in training and in service alike."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.imaging.samples import distinct_channels
from blemish_core.imaging.scaling import scaled

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Scale to a square, whatever the aspect, then normalise as the backbone was trained."""

    size: int
    mean: Channels
    std: Channels

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return float32 (3, size, size) of an RGB image (H, W, 3).

        Bilinear with antialiasing on float pixels: what torchvision's ``Resize`` does with tensors, and
        so what anomalib's models see.
        """
        pixels = scaled(distinct_channels(image), self.size)
        # To 0 ... 1 only now: there are fewer of them.
        return self.normalized(pixels.div_(255))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return the model's input of pixels (3, size, size), 0 to 1; of grey ones (1, size, size) too."""
        return (pixels - _channels(self.mean)).div_(_channels(self.std))

    def pixels(self, normalized: Tensor) -> Tensor:
        """Return the pixels, 0 to 1, that a model's input (3, size, size) is of."""
        return normalized * _channels(self.std) + _channels(self.mean)


@cache
def _channels(values: Channels) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
