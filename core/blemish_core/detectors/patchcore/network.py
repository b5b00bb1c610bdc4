# SPDX-License-Identifier: Apache-2.0
"""PatchCore's torch network: anomalib's model, from an image to patch features.

The network is built on first use. Importing anomalib and timm takes seconds, and a model that OpenVINO runs
needs neither.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.base import held_bytes, release
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.common.staged_network import StagedNetwork

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import PatchcoreModel


# Keeps the square root from amplifying rounding where all four features are equal.
_MIN_VARIANCE = 1e-6


class PatchCoreNetwork:
    """anomalib's model, built on demand, and the part of it that runtimes run."""

    def __init__(
        self,
        backbone: Backbone,
        neighbors: int,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        projection: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Keep the arguments until the network is built.

        Args:
            backbone: feature extractor.
            neighbors: as in the settings.
            device: device of torch.
            weights: state dict of anomalib's model without its memory bank; None leaves it random.
            projection: matrix (D, D) and shift (D,) by which older versions map features (P, D).
        """
        self._backbone = backbone
        self._neighbors = neighbors
        self._device = device
        self._weights = dict(weights or {})
        self._projection = projection
        self._entries = torch.empty(0)
        self._released = False

    @cached_property
    def model(self) -> Any:
        """Complete model of anomalib, or a transformer with a memory bank."""
        if self._released:
            raise RuntimeError("the weights of this network were released; this is a bug")
        model = self._build().eval()
        if self._weights:
            model.load_state_dict(self._weights | {"memory_bank": self._entries})
            self._weights = {}  # the model has them
        model.to(self._device)
        model.memory_bank = self._entries
        return model

    @cached_property
    def staged(self) -> StagedNetwork:
        """Part of the model from images (B, 3, h, w) to features (B, D, rows, columns)."""
        staged = StagedNetwork(self._extractor())
        if self._projection is not None:
            staged.project(*self._projection)
        return staged.to(self._device)

    def _build(self) -> nn.Module:
        if self._backbone.patch_px is not None:
            from blemish_core.detectors.patchcore.transformer_features import TransformerModel

            return TransformerModel(self._backbone)
        from blemish_core.detectors.common.anomalib_models import PatchcoreModel

        return PatchcoreModel(
            backbone=self._backbone.timm_name,
            layers=list(self._backbone.layers),
            pre_trained=False,
            num_neighbors=self._neighbors,
        )

    def _extractor(self) -> nn.Module:
        if self._backbone.patch_px is not None:
            features: nn.Module = self.model.feature_extractor
            return features
        return FeatureExtractor(self.model, self._backbone.finest)

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of features of each stage, D together."""
        counts = [int(count) for count in self.model.feature_extractor.out_dims]
        if self._backbone.finest is not None:
            counts[0] *= 2  # see halve
        return tuple(counts)

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        built = held_bytes(self.staged) if "staged" in vars(self) else 0
        return built + sum(weight.nbytes for weight in self._weights.values())

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Load a backbone's weights, by their names in timm."""
        # The extractor ends at the last stage in use, so it has no parameters for later weights.
        extractor = self.model.feature_extractor.feature_extractor
        missing, _ = extractor.load_state_dict(weights, strict=False)
        if missing:
            raise RuntimeError(f"{self._backbone.name} lacks weights for {missing[:3]}; this is a bug")

    def set_memory_bank(self, entries: Tensor) -> None:
        """Use ``entries`` (M, D), not a copy, as the model's memory bank."""
        self._entries = entries
        if "model" in vars(self):
            self.model.memory_bank = entries

    def release(self) -> None:
        """Free the weights; the network cannot run again."""
        self._weights, self._projection, self._released = {}, None, True
        if "staged" in vars(self):
            release(self.staged.parameters())


class FeatureExtractor(nn.Module):
    """Images (B, 3, h, w) to locally pooled features of all stages, on the grid of stride 8."""

    def __init__(self, model: "PatchcoreModel", finest: str | None) -> None:
        """Take the parts of anomalib's model; ``finest`` is its stage of stride 4, if it is used."""
        super().__init__()
        self.extractor = model.feature_extractor
        self.pooler = model.feature_pooler
        self.finest = finest

    def extra_repr(self) -> str:
        """Distinguish networks of equal modules and weights: OpenVINO's cache is keyed by both."""
        return f"finest={self.finest}"

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D, rows, columns)."""
        stages = dict(self.extractor(images))
        if self.finest is not None:
            stages[self.finest] = halve(stages[self.finest])
        return join([self.pooler(features) for features in stages.values()])


def join(stages: Sequence[Tensor]) -> Tensor:
    """Scale features (B, D, rows, columns) of all stages to the grid of the first, and concatenate them.

    The result equals that of anomalib's ``PatchcoreModel.generate_embedding``. Where a grid is twice as
    fine as another, the operation holds for inputs of all sizes, so that an exported network accepts them.
    """
    first, *others = stages
    return torch.cat([first, *(_scaled(each, first) for each in others)], dim=1)


def _scaled(features: Tensor, target: Tensor) -> Tensor:
    if target.shape[-2:] == (2 * features.shape[-2], 2 * features.shape[-1]):
        return functional.interpolate(features, scale_factor=2, mode="bilinear")
    return functional.interpolate(features, size=target.shape[-2:], mode="bilinear")


def halve(features: Tensor) -> Tensor:
    """Return mean and standard deviation (B, 2 D, H / 2, W / 2) of each 2 x 2 features (B, D, H, W).

    The output size is rounded up. A mean alone would blur fine structure.
    """
    mean = functional.avg_pool2d(features, 2, ceil_mode=True)
    if features.shape[-2] % 2 or features.shape[-1] % 2:
        fine = functional.interpolate(mean, size=features.shape[-2:], mode="nearest")
    else:
        fine = functional.interpolate(mean, scale_factor=2, mode="nearest")
    away = features - fine
    variance = functional.avg_pool2d(away * away, 2, ceil_mode=True)
    return torch.cat([mean, (variance + _MIN_VARIANCE).sqrt()], dim=1)
