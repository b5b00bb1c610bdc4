# SPDX-License-Identifier: Apache-2.0
"""The good images of a training, and what the teacher returns for them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from blemish_core.detectors.base import ReadImage
from blemish_core.detectors.common.masking import split_looks
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd


class TrainingImages:
    """Good images, prepared on first use and cached as far as memory allows."""

    def __init__(
        self, detector: TrainableEfficientAd, images: Sequence[ReadImage], device: str, max_bytes: int
    ) -> None:
        """Hold the images.

        Args:
            detector: detector that prepares the images, with the teacher.
            images: all good images of the training.
            device: device of the tensors.
            max_bytes: most memory for cached tensors.
        """
        self._detector = detector
        self._images = images
        self._device = torch.device(device)
        self._free_bytes = max_bytes
        self._prepared: dict[int, Tensor] = {}
        self._teacher_features: dict[int, Tensor] = {}

    def prepared(self, number: int) -> Tensor:
        """Return the network's input, (1, 3, S, S), on the device."""
        (pixels,), _ = split_looks([self.input(number)])
        return pixels[None]

    def looks(self, number: int) -> Tensor | None:
        """Return the mask of an image, bool (S, S), or None if there is none."""
        return split_looks([self.input(number)])[1][0]

    def input(self, number: int) -> Tensor:
        """Return the result of ``Detector.prepare``, on the device."""
        cached = self._prepared.get(number)
        if cached is None:
            cached = self._detector.prepare(self._images[number]()).to(self._device)
            self._cache(self._prepared, number, cached)
        return cached

    def teacher_features(self, number: int) -> Tensor:
        """Return the teacher's features, (1, 384, R, R), which are the same at every step."""
        cached = self._teacher_features.get(number)
        if cached is None:
            with torch.no_grad():
                cached = self._detector.model.teacher(self.prepared(number))
            self._cache(self._teacher_features, number, cached)
        return cached

    def _cache(self, cache: dict[int, Tensor], number: int, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._free_bytes:
            self._free_bytes -= size
            cache[number] = value
