# SPDX-License-Identifier: Apache-2.0
"""Steps on crops of features, for trainings of minutes rather than days.

A student that starts as a copy of its teacher keeps the lower layers, so their output for each image is
computed once. A step trains the upper layers on random crops of it: many images at a fraction of the cost
of one whole image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.training.losses import hard_mean

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_CROP = 17
"""Side of a crop, in cells of 4 px; its output is smaller by ``_LOST``."""
_LOST = 5
_SURFACE_CROPS, _OTHER_CROPS = 8, 4  # of a step
_HELD_OUT_CROPS = 32


@dataclass(frozen=True)
class TargetFeatures:
    """Features of a good image: input of the upper layers, and what they should return. Half precision."""

    field: Tensor
    """(C, H, W), output of the lower layers."""
    targets: Tensor
    """(384, R, R), standardised features of the teacher."""

    @property
    def bytes(self) -> int:
        """Memory of both."""
        return self.field.nbytes + self.targets.nbytes


class FeatureCrops:
    """The losses of a student's upper layers on random crops of features."""

    def __init__(
        self,
        model: "EfficientAdModel",
        learned: Sequence[TargetFeatures],
        validation: Sequence[TargetFeatures],
        others: Sequence[Tensor],
    ) -> None:
        """Hold the features.

        Args:
            model: model with an initialised student.
            learned: features of the images to train on.
            validation: features of good images that are not trained on.
            others: outputs (C, H, W) of the lower layers for photographs of anything else.
        """
        self._student = model.student
        self._learned, self._validation, self._others = learned, validation, others

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that a step trains."""
        named = dict(self._student.named_parameters())
        return [named[name] for name in teachers.upper_names(named)]

    def loss(self, random: np.random.Generator) -> Tensor:
        """Return the loss of a step, ()."""
        return self._loss(self._learned, random, _SURFACE_CROPS, _OTHER_CROPS)

    def held_out_loss(self) -> float:
        """Return the loss on crops of validation images, the same at each call."""
        with torch.inference_mode():
            fixed = np.random.default_rng(0)
            return float(self._loss(self._validation, fixed, _HELD_OUT_CROPS, _HELD_OUT_CROPS))

    def _loss(
        self, images: Sequence[TargetFeatures], random: np.random.Generator, surface: int, others: int
    ) -> Tensor:
        """Return the paper's loss of the student (arXiv:2303.14535, section 3.2)."""
        weights = dict(self._student.named_parameters())
        cut = [_target_crop(images[int(random.integers(len(images)))], random) for _ in range(surface)]
        fields, targets = (torch.stack(each).float() for each in zip(*cut, strict=True))
        distance = (teachers.upper_layers(weights, fields) - targets).square()
        photographs = torch.stack(
            [_crop(self._others[int(random.integers(len(self._others)))], random) for _ in range(others)]
        ).float()
        penalty = teachers.upper_layers(weights, photographs).square().mean()
        return hard_mean(distance) + penalty


def _target_crop(features: TargetFeatures, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    row, column = _corner(features.field, random)
    output = _CROP - _LOST
    return (
        features.field[:, row : row + _CROP, column : column + _CROP],
        features.targets[:, row : row + output, column : column + output],
    )


def _crop(field: Tensor, random: np.random.Generator) -> Tensor:
    row, column = _corner(field, random)
    return field[:, row : row + _CROP, column : column + _CROP]


def _corner(field: Tensor, random: np.random.Generator) -> tuple[int, int]:
    row, column = (int(random.integers(length - _CROP + 1)) for length in field.shape[1:])
    return row, column
