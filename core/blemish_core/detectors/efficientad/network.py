# SPDX-License-Identifier: Apache-2.0
"""What EfficientAD computes in torch: anomalib's model, from an image to its anomaly map and features.

It is made when it is asked for: to import anomalib takes seconds, and a version that OpenVINO runs asks for
the teacher at most, which is a few convolutions, and for that only if it was published without its answers.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.base import held_bytes
from blemish_core.detectors.common.embedding import pooled
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.teacher import CHANNELS

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

PAD = 4
"""Patches that the maps are padded by, each side: the network's own field of view is lost there."""
_STRIDE = 4  # px from one patch to the next
_TEACHER = "model.teacher."
_MEAN, _STD = "model.mean_std.mean", "model.mean_std.std"
_SPREAD = "spread"


class EfficientAdNetwork:
    """anomalib's model and how images are judged by it, with the weights it is to have."""

    def __init__(
        self, size: str, device: torch.device, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take what it is to be made from.

        Args:
            size: small or medium.
            device: where torch runs.
            weights: of a ``Judgement``; None leaves them random.
        """
        self._size = size
        self._device = device
        self._weights = dict(weights or {})
        self._released = False

    @cached_property
    def judgement(self) -> "Judgement":
        """From images to maps and pooled features."""
        from blemish_core.detectors.common.anomalib_models import EfficientAdModel, EfficientAdModelSize

        if self._released:
            raise RuntimeError("the weights of this network were given away; this is a bug")
        judgement = Judgement(EfficientAdModel(CHANNELS, EfficientAdModelSize(self._size)).eval())
        if self._weights:
            judgement.load_state_dict(self._weights)
            self._weights = {}  # held once
        return judgement.to(self._device)

    @property
    def spread(self) -> Tensor:
        """What patches are pooled by, ()."""
        return self._known()[_SPREAD]

    @property
    def bytes(self) -> int:
        """Held in memory."""
        made = held_bytes(self.judgement) if "judgement" in vars(self) else 0
        return made + sum(weight.nbytes for weight in self._weights.values())

    def taught(self, images: Tensor) -> Tensor:
        """The teacher's features (B, 384, R, R) of images (B, 3, S, S), each in units of good images.

        They can be asked for after ``release``: not every version's runtime tells them.
        """
        known = self._known()
        weights = {
            name.removeprefix(_TEACHER): weight
            for name, weight in known.items()
            if name.startswith(_TEACHER)
        }
        answers = teachers.answers(weights, images.to(self._device))
        return (answers - known[_MEAN]) / known[_STD]

    def release(self) -> None:
        """Let go of all weights but the teacher's; it can never run again."""
        self._weights = {
            name: weight
            for name, weight in self._known().items()
            if name.startswith(_TEACHER) or name in (_MEAN, _STD, _SPREAD)
        }
        self._released = True
        vars(self).pop("judgement", None)

    def _known(self) -> Mapping[str, Tensor]:
        return self._weights or self.judgement.state_dict()


class Judgement(nn.Module):
    """Images (B, 3, S, S) of 0 to 1 to maps (B, 1, S, S), pooled features (B, 384), and what is pooled.

    That is the teacher's standardised answer, (B, 384, R, R), which searches by a part of an image compare.
    """

    spread: Tensor

    def __init__(self, model: "EfficientAdModel") -> None:
        super().__init__()
        self.model = model
        self.register_buffer(_SPREAD, torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As anomalib's ``EfficientAdModel.forward`` judges; the teacher's answers are pooled beside it."""
        mean, std = self.model.mean_std["mean"], self.model.mean_std["std"]
        taught: Tensor = (self.model.teacher(images) - mean) / std
        return *self.judged(images, taught), taught

    def judged(self, images: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images to which the teacher's standardised answer, (B, 384, R, R), is known."""
        model = self.model
        student = model.student(images)
        distance = torch.pow(taught - student[:, :CHANNELS], 2)
        map_st, map_stae = model.compute_maps(images, student, distance)
        maps = 0.5 * map_st + 0.5 * map_stae
        anomaly = of_patches(maps)
        count = anomaly.shape[1] * anomaly.shape[2]
        # Views of -1 images: to flatten would write the size of the batch into an export.
        features = taught.view(-1, CHANNELS, count).transpose(1, 2)  # (B, R * R, 384)
        return maps, pooled(features, anomaly.contiguous().view(-1, count), self.spread)


def of_patches(maps: Tensor) -> Tensor:
    """The anomaly (B, R, R) of the patches that the teacher answers for, from maps (B, 1, S, S)."""
    return functional.avg_pool2d(maps, _STRIDE)[:, 0, PAD:-PAD, PAD:-PAD]
