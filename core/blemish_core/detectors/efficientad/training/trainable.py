# SPDX-License-Identifier: Apache-2.0
"""EfficientAD with the operations that a training needs in addition to inference."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blemish_core.detectors.common.embedding import score_scale, whitening
from blemish_core.detectors.efficientad.detector import EfficientAd

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel


class TrainableEfficientAd(EfficientAd):
    """An EfficientAD whose networks can be trained and whose statistics can be set."""

    @property
    def model(self) -> "EfficientAdModel":
        """Model of anomalib."""
        return self._torch.built.model

    @property
    def trained(self) -> nn.Module:
        """Networks that a training changes: student and autoencoder, if there is one."""
        networks = {"student": self.model.student, "ae": self.model.ae}
        return nn.ModuleDict({name: each for name, each in networks.items() if each is not None})

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps: st, and ae with an autoencoder."""
        return self._torch.built.map_names

    def raw_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, 1, S, S) of ``map_names`` before their normalisation."""
        return self._torch.built.raw_maps(images)

    def measure_maps(self, quantiles: Mapping[str, Tensor], spread: Tensor) -> None:
        """Set the normalisation of the maps from good images that the student was not trained on.

        Args:
            quantiles: qa_st, qb_st and so on, the 90 % and 99.5 % quantiles of each map.
            spread: temperature of the pooling, see ``embedding.temperature``.
        """
        for name, value in quantiles.items():
            self.model.quantiles[name].data.copy_(value)
        self._torch.built.spread.copy_(spread)

    def measure_center(self, center: Tensor) -> None:
        """Set the mean of the pooled features of good images, (384,), the origin of embeddings."""
        self._center = center.to(self._device)

    def measure_embedding_whitening(self, features: Tensor) -> None:
        """Set the whitening of embeddings from features (N, 384) of good images."""
        with torch.inference_mode():
            self._whitening = whitening(features).to(self._device)

    def measure_score_scale(self, scores: Sequence[float]) -> None:
        """Set the scale of scores in embeddings from scores of held-out good images."""
        self._score_scale = score_scale(torch.tensor(scores)).to(self._device)
