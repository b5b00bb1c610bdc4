# SPDX-License-Identifier: Apache-2.0
"""Steps of the paper: one whole image, a photograph, and all layers of student and autoencoder."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.efficientad.training.images import TrainingImages
from blemish_core.detectors.efficientad.training.losses import augment, losses_of_step, standardised

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_VALIDATION_IMAGES = 8


class WholeImages:
    """The losses of student and autoencoder on whole images."""

    def __init__(
        self,
        model: "EfficientAdModel",
        images: TrainingImages,
        learned: Sequence[int],
        validation: Sequence[int],
        photograph: Callable[[np.random.Generator, Tensor], Tensor],
    ) -> None:
        """Hold the images.

        Args:
            model: model to train.
            images: all good images.
            learned: numbers of the images to train on.
            validation: numbers of good images that are not trained on.
            photograph: returns a random photograph of the shape of an image.
        """
        self._model = model
        self._images = images
        self._learned, self._validation = learned, validation[:_VALIDATION_IMAGES]
        self._photograph = photograph

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that a step trains."""
        return [*self._model.student.parameters(), *self._model.ae.parameters()]

    def loss(self, random: np.random.Generator) -> Tensor:
        """Return the loss of a step, ()."""
        number = int(random.choice(self._learned))
        image = self._images.prepared(number)
        return self._loss(number, self._photograph(random, image), augment(image, random))

    def held_out_loss(self) -> float:
        """Return the mean loss of validation images and photographs, the same ones at each call."""
        random = np.random.default_rng(0)
        losses = []
        self._model.eval()
        with torch.inference_mode():
            for number in self._validation:
                image = self._images.prepared(number)
                losses.append(float(self._loss(number, self._photograph(random, image), image)))
        self._model.train()
        self._model.teacher.eval()
        return float(np.mean(losses))

    def _loss(self, number: int, photograph: Tensor, augmented: Tensor) -> Tensor:
        taught = standardised(self._model, self._images.teacher_features(number))
        return torch.stack(
            losses_of_step(self._model, self._images.prepared(number), taught, photograph, augmented)
        ).sum()
