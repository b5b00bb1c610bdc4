# SPDX-License-Identifier: Apache-2.0
"""Conversion of pixels to a model's input, the same in training and inference."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.imaging.geometry import InputGeometry
from blemish_core.imaging.samples import distinct_channels
from blemish_core.imaging.scaling import scaled

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Scaling by a geometry, then the backbone's normalisation."""

    geometry: InputGeometry
    mean: Channels
    std: Channels

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the model's input, float32 (3, h, w), for an RGB image (H, W, 3).

        The scaling is bilinear with antialiasing on float pixels, like torchvision's ``Resize`` of a
        tensor, which anomalib's models use.

        Raises:
            InvalidImage: if the image is too large at the geometry's scale.
        """
        pixels = scaled(distinct_channels(image), self.geometry.input_size(image.shape[:2]))
        return self.normalized(pixels.div_(255))  # after scaling there are fewer pixels to divide

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return the model's input (3, h, w) for pixels 0 to 1, (3 or 1, h, w)."""
        return (pixels - _channels(self.mean)).div_(_channels(self.std))

    def pixels(self, normalized: Tensor) -> Tensor:
        """Return the pixels, 0 to 1, of a model's input (3, h, w)."""
        return normalized * _channels(self.std) + _channels(self.mean)


@cache
def _channels(values: Channels) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
