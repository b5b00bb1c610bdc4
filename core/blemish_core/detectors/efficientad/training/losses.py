# SPDX-License-Identifier: Apache-2.0
"""The losses of one step of EfficientAD (arXiv:2303.14535, sections 3.2 and 3.3): anomalib's, for less."""

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from blemish_core.detectors.efficientad.teacher import CHANNELS

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_HARD_SHARE = 0.999  # quantile of the distances above which the student learns (paper, section 3.2)


def losses_of_step(
    model: "EfficientAdModel", image: Tensor, taught: Tensor, photograph: Tensor, augmented: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of anomalib's ``EfficientAdModel.compute_losses``, with less work.

    Each pass of the student computes only the half of its answer that is looked at, the hardest distances
    are found without sorting all, and the teacher's answer to the image comes from before.

    Args:
        model: in training mode.
        image: (1, 3, S, S).
        taught: the teacher's standardised answer to it, (1, 384, R, R).
        photograph: of something else, (1, 3, S, S).
        augmented: the image in other light, (1, 3, S, S).

    Returns:
        The losses of student, autoencoder, and student by autoencoder.
    """
    distance = torch.pow(taught - _half(model.student, image, 0), 2).flatten()
    hardest = len(distance) - ceil(_HARD_SHARE * (len(distance) - 1))
    loss_hard = distance.topk(hardest).values.mean()
    loss_penalty = _half(model.student, photograph, 0).square().mean()

    restored = model.ae(augmented, augmented.shape[-2:])
    loss_ae = torch.pow(answer_of_teacher(model, augmented) - restored, 2).mean()
    loss_stae = torch.pow(restored - _half(model.student, augmented, 1), 2).mean()
    return loss_hard + loss_penalty, loss_ae, loss_stae


def _half(student: nn.Module, images: Tensor, half: int) -> Tensor:
    """The student's first or second 384 channels, (B, 384, R, R)."""
    last, layer = list(student.named_children())[-3]  # two pools stand behind it
    channels = slice(half * CHANNELS, (half + 1) * CHANNELS)
    part = {f"{last}.{name}": value[channels] for name, value in layer.named_parameters()}
    answer: Tensor = functional_call(student, part, images)
    return answer


def answer_of_teacher(model: "EfficientAdModel", images: Tensor) -> Tensor:
    """The teacher's standardised answer to images (B, 3, S, S): (B, 384, R, R), without gradient."""
    with torch.no_grad():
        return standardised(model, model.teacher(images))


def standardised(model: "EfficientAdModel", answer: Tensor) -> Tensor:
    """The teacher's answer (B, 384, R, R) in units of its channels on good images."""
    mean, std = model.mean_std["mean"].detach(), model.mean_std["std"].detach()
    standard: Tensor = (answer - mean) / std
    return standard


def augmented(image: Tensor, random: np.random.Generator) -> Tensor:
    """The image a fifth brighter or darker, or with more or less contrast or colour, at most."""
    # Only now: torchvision takes seconds, and only a training asks for it.
    from torchvision.transforms.v2 import functional as colour

    change: Callable[[Tensor, float], Tensor] = (
        colour.adjust_brightness,
        colour.adjust_contrast,
        colour.adjust_saturation,
    )[int(random.integers(3))]
    return change(image, random.uniform(0.8, 1.2))
