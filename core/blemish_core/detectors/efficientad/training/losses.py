# SPDX-License-Identifier: Apache-2.0
"""The losses of one EfficientAD step (arXiv:2303.14535, sections 3.2, 3.3): anomalib's, computed faster."""

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from blemish_core.detectors.efficientad.settings import CHANNELS

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_HARD_QUANTILE = 0.999  # of the distances, above which the student is trained (paper, section 3.2)


def losses_of_step(
    model: "EfficientAdModel",
    image: Tensor,
    teacher_features: Tensor,
    photograph: Tensor,
    augmented: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of anomalib's ``EfficientAdModel.compute_losses``, computed with less work.

    Each pass of the student computes only the half of its output that is used. The hardest distances are
    found without a full sort. The teacher's features of the image are reused.

    Args:
        model: model in training mode.
        image: (1, 3, S, S).
        teacher_features: the teacher's standardised features of the image, (1, 384, R, R).
        photograph: photograph of something else, (1, 3, S, S).
        augmented: the image with changed colours, (1, 3, S, S).

    Returns:
        The losses of student, autoencoder, and student by autoencoder.
    """
    loss_hard = hard_mean(torch.pow(teacher_features - _half(model.student, image, 0), 2))
    loss_penalty = _half(model.student, photograph, 0).square().mean()

    restored = model.ae(augmented, augmented.shape[-2:])
    loss_ae = torch.pow(teacher_features_of(model, augmented) - restored, 2).mean()
    loss_stae = torch.pow(restored - _half(model.student, augmented, 1), 2).mean()
    return loss_hard + loss_penalty, loss_ae, loss_stae


def hard_mean(distance: Tensor) -> Tensor:
    """Return the mean, (), of the hardest thousandth of distances of any shape."""
    flat = distance.flatten()
    hardest = len(flat) - ceil(_HARD_QUANTILE * (len(flat) - 1))
    return flat.topk(hardest).values.mean()


def _half(student: nn.Module, images: Tensor, half: int) -> Tensor:
    """Return the student's first or second 384 channels, (B, 384, R, R)."""
    last, layer = list(student.named_children())[-3]  # followed by two pooling layers
    channels = slice(half * CHANNELS, (half + 1) * CHANNELS)
    part = {f"{last}.{name}": value[channels] for name, value in layer.named_parameters()}
    features: Tensor = functional_call(student, part, images)
    return features


def teacher_features_of(model: "EfficientAdModel", images: Tensor) -> Tensor:
    """Return the teacher's standardised features (B, 384, R, R) of images (B, 3, S, S), no gradient."""
    with torch.no_grad():
        return standardised(model, model.teacher(images))


def standardised(model: "EfficientAdModel", features: Tensor) -> Tensor:
    """Standardise the teacher's features (B, 384, R, R) by their statistics on good images."""
    mean, std = model.mean_std["mean"].detach(), model.mean_std["std"].detach()
    standard: Tensor = (features - mean) / std
    return standard


def augment(image: Tensor, random: np.random.Generator) -> Tensor:
    """Return the image with brightness, contrast or saturation changed by a factor of 0.8 to 1.2."""
    # Imported on demand: torchvision takes seconds, and only a training needs it.
    from torchvision.transforms.v2 import functional as colour

    change: Callable[[Tensor, float], Tensor] = (
        colour.adjust_brightness,
        colour.adjust_contrast,
        colour.adjust_saturation,
    )[int(random.integers(3))]
    return change(image, random.uniform(0.8, 1.2))
