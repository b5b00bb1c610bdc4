# SPDX-License-Identifier: Apache-2.0
"""Conversion of pixels to a model's input, the same in training and inference."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.geometry import InputGeometry
from blemish_core.imaging.samples import distinct_channels
from blemish_core.imaging.scaling import scaled

Channels = tuple[float, float, float]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Preprocessing:
    """Scaling by a geometry, then the backbone's normalisation."""

    geometry: InputGeometry
    mean: Channels
    std: Channels

    def __call__(self, image: NDArray[np.uint8]) -> Floats:
        """Return the model's input, float32 (3, h, w), for an RGB image (H, W, 3).

        The scaling is bilinear with antialiasing on float pixels, like torchvision's ``Resize`` of a
        tensor, which anomalib's models use.

        Raises:
            InvalidImage: if the image is too large at the geometry's scale.
        """
        pixels = scaled(distinct_channels(image), self.geometry.input_size(image.shape[:2]))
        pixels /= 255  # after scaling there are fewer pixels to divide
        return self.normalized(pixels)

    def normalized(self, pixels: Floats) -> Floats:
        """Return the model's input (3, h, w) for pixels 0 to 1, (3 or 1, h, w)."""
        centered: Floats = pixels - _channels(self.mean)
        centered /= _channels(self.std)
        return centered

    def pixels(self, normalized: Floats) -> Floats:
        """Return the pixels, 0 to 1, of a model's input (3, h, w)."""
        return normalized * _channels(self.std) + _channels(self.mean)


@cache
def _channels(values: Channels) -> Floats:
    return np.array(values, np.float32).reshape(3, 1, 1)
