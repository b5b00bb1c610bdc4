# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's torch network: anomalib's model, from an image to its anomaly map and pooled features.

The network is built on first use, because importing anomalib takes seconds. A model that OpenVINO runs
needs the teacher at most, if its exported network does not return the teacher's features.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.base import held_bytes
from blemish_core.detectors.common.embedding import pooled
from blemish_core.detectors.common.masking import patch_looks
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.settings import CHANNELS, MARGIN, STRIDE

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_TEACHER, _AUTOENCODER = "model.teacher.", "model.ae."
UNIT = 0.1
"""Distance of a map's two quantiles after its normalisation, as in the paper."""
_MEAN, _STD = "model.mean_std.mean", "model.mean_std.std"
_SPREAD = "spread"


class EfficientAdNetwork:
    """anomalib's model with the pooling of features, built on demand."""

    def __init__(
        self,
        size: str,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        *,
        autoencoder: bool = True,
    ) -> None:
        """Keep the arguments until the network is built.

        Args:
            size: small or medium.
            device: device of torch.
            weights: state dict of an ``AnomalyNetwork``; None leaves it random.
            autoencoder: False leaves out the autoencoder; ignored with weights, which show it.
        """
        self._size = size
        self._device = device
        self._weights = dict(weights or {})
        if weights:
            autoencoder = any(name.startswith(_AUTOENCODER) for name in weights)
        self._autoencoder = autoencoder
        self._released = False

    @cached_property
    def built(self) -> "AnomalyNetwork":
        """Network from images to maps and pooled features."""
        from blemish_core.detectors.common.anomalib_models import EfficientAdModel, EfficientAdModelSize

        if self._released:
            raise RuntimeError("the weights of this network were released; this is a bug")
        model = EfficientAdModel(CHANNELS, EfficientAdModelSize(self._size))
        if not self._autoencoder:
            model.register_module("ae", None)
            model.register_module("student", teachers.network(self._size))  # has half as many outputs
        network = AnomalyNetwork(model.eval())
        if self._weights:
            network.load_state_dict(self._weights)
            self._weights = {}  # the network has them
        return network.to(self._device)

    @property
    def spread(self) -> Tensor:
        """Temperature of the pooling, ()."""
        return self._state()[_SPREAD]

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        built = held_bytes(self.built) if "built" in vars(self) else 0
        return built + sum(weight.nbytes for weight in self._weights.values())

    def teacher_features(self, images: Tensor) -> Tensor:
        """Return the teacher's standardised features (B, 384, R, R) of images (B, 3, S, S).

        Works after ``release`` too, because the runtimes of older versions do not return them.
        """
        state = self._state()
        weights = {
            name.removeprefix(_TEACHER): weight
            for name, weight in state.items()
            if name.startswith(_TEACHER)
        }
        features = teachers.features(weights, images.to(self._device))
        return (features - state[_MEAN]) / state[_STD]

    def release(self) -> None:
        """Free all weights but the teacher's; the network cannot run again."""
        self._weights = {
            name: weight
            for name, weight in self._state().items()
            if name.startswith(_TEACHER) or name in (_MEAN, _STD, _SPREAD)
        }
        self._released = True
        vars(self).pop("built", None)

    def _state(self) -> Mapping[str, Tensor]:
        return self._weights or self.built.state_dict()


class AnomalyNetwork(nn.Module):
    """Images (B, 3, S, S) of 0 to 1 to maps (B, 1, S, S), pooled features (B, 384), and teacher features.

    The latter are the teacher's standardised features (B, 384, R, R), which search by region compares. A
    model without an autoencoder has the student's map alone.
    """

    spread: Tensor

    def __init__(self, model: "EfficientAdModel") -> None:
        super().__init__()
        self.model = model
        self.register_buffer(_SPREAD, torch.ones(()))

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps in the model's quantiles."""
        return ("st",) if self.model.ae is None else ("st", "ae")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the maps as anomalib's ``EfficientAdModel.forward`` does, and pool features by them."""
        teacher_features = self._teacher_features(images)
        return *self.compare(images, teacher_features), teacher_features

    def compare(self, images: Tensor, teacher_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps and pooled features, given the teacher's standardised features (B, 384, R, R)."""
        maps = self._maps(images, teacher_features, normalize=True)
        combined = maps[0] if len(maps) == 1 else 0.5 * maps[0] + 0.5 * maps[1]
        anomaly = patch_anomaly(combined)
        count = anomaly.shape[1] * anomaly.shape[2]
        # A view of -1 images: flatten would fix the batch size in an export.
        features = teacher_features.view(-1, CHANNELS, count).transpose(1, 2)  # (B, R * R, 384)
        return combined, pooled(features, anomaly.contiguous().view(-1, count), self.spread)

    def raw_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, 1, S, S) of ``map_names`` before their normalisation."""
        return self._maps(images, self._teacher_features(images), normalize=False)

    def _teacher_features(self, images: Tensor) -> Tensor:
        mean, std = self.model.mean_std["mean"], self.model.mean_std["std"]
        features: Tensor = (self.model.teacher(images) - mean) / std
        return features

    def _maps(self, images: Tensor, teacher_features: Tensor, *, normalize: bool) -> tuple[Tensor, ...]:
        student = self.model.student(images)
        distance = torch.pow(teacher_features - student[:, :CHANNELS], 2)
        if self.model.ae is not None:
            both: tuple[Tensor, Tensor] = self.model.compute_maps(images, student, distance, normalize)
            return both
        padded = functional.pad(distance.mean(1, keepdim=True), (MARGIN,) * 4)
        local = functional.interpolate(padded, size=images.shape[-2:], mode="bilinear")
        if normalize:
            low, high = self.model.quantiles["qa_st"], self.model.quantiles["qb_st"]
            local = UNIT * (local - low) / (high - low)
        return (local,)


def patch_anomaly(maps: Tensor) -> Tensor:
    """Return the anomaly (B, R, R) of the teacher's patches from maps (B, 1, S, S)."""
    return functional.avg_pool2d(maps, STRIDE)[:, 0, MARGIN:-MARGIN, MARGIN:-MARGIN]


def patches_seen(looks: Tensor) -> Tensor:
    """Return which patches of the teacher count, bool (R, R), for the mask (S, S) of an image."""
    border = MARGIN * STRIDE
    rows, columns = (length // STRIDE - 2 * MARGIN for length in looks.shape)
    return patch_looks(looks[border:-border, border:-border], (rows, columns))
