# SPDX-License-Identifier: Apache-2.0
"""What PatchCore computes in torch before any distance: anomalib's model, from an image to patch features.

It is made when it is asked for: to import anomalib and timm takes seconds, and a version that OpenVINO runs
asks for neither, in a server that has just been started again least of all.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.base import held_bytes, release
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.runtimes.staged import Staged

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import PatchcoreModel


# Of features of about 1: where all four are alike, rounding is not to grow under the root.
_LEAST_VARIANCE = 1e-6


class PatchCoreNetwork:
    """anomalib's model and the part of it that runtimes run, with the weights it is to have."""

    def __init__(
        self,
        backbone: Backbone,
        neighbors: int,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        mapping: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take what it is to be made from.

        Args:
            backbone: what extracts features.
            neighbors: as in the settings.
            device: where torch runs.
            weights: of anomalib's model but for its memory bank; None leaves them random.
            mapping: as ``map`` takes it.
        """
        self._backbone = backbone
        self._neighbors = neighbors
        self._device = device
        self._weights = dict(weights or {})
        self._mapping = mapping
        self._entries = torch.empty(0)
        self._released = False

    @cached_property
    def model(self) -> "PatchcoreModel":
        """The whole of it, as anomalib has it."""
        from blemish_core.detectors.common.anomalib_models import PatchcoreModel

        if self._released:
            raise RuntimeError("the weights of this network were given away; this is a bug")
        model = PatchcoreModel(
            backbone=self._backbone.timm_name,
            layers=list(self._backbone.layers),
            pre_trained=False,
            num_neighbors=self._neighbors,
        ).eval()
        if self._weights:
            model.load_state_dict(self._weights | {"memory_bank": self._entries})
            self._weights = {}  # held once
        model.to(self._device)
        model.memory_bank = self._entries
        return model

    @cached_property
    def staged(self) -> Staged:
        """Its part from images (B, 3, S, S) to features (B, D, rows, columns)."""
        staged = Staged(PatchFeatures(self.model, self._backbone.finest))
        if self._mapping is not None:
            staged.map(*self._mapping)
        return staged.to(self._device)

    @property
    def bytes(self) -> int:
        """Held in memory."""
        made = held_bytes(self.staged) if "staged" in vars(self) else 0
        return made + sum(weight.nbytes for weight in self._weights.values())

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Take a backbone's weights, by their names in timm."""
        # The extractor stops at the last stage that is needed; later weights have no place in it.
        missing, _ = self.model.feature_extractor.feature_extractor.load_state_dict(weights, strict=False)
        if missing:
            raise RuntimeError(f"{self._backbone.name} lacks weights for {missing[:3]}; this is a bug")

    def map(self, matrix: Tensor, shift: Tensor) -> None:
        """Have features (P, D) be what they were times a symmetric (D, D), plus ``shift`` (D,)."""
        self._mapping = None  # the network has it
        self.staged.map(matrix, shift)
        self.staged.to(self._device)

    def remember(self, entries: Tensor) -> None:
        """Have ``entries`` (M, D) be the model's memory bank: the very tensor."""
        self._entries = entries
        if "model" in vars(self):
            self.model.memory_bank = entries

    def release(self) -> None:
        """Let go of the weights; it can never run again."""
        self._weights, self._mapping, self._released = {}, None, True
        if "staged" in vars(self):
            release(self.staged.parameters())


class PatchFeatures(nn.Module):
    """Images (B, 3, S, S) to locally pooled features of all stages, on the grid of stride 8."""

    def __init__(self, model: "PatchcoreModel", finest: str | None) -> None:
        """Take anomalib's model, and which of its stages has stride 4, if any."""
        super().__init__()
        self.extractor = model.feature_extractor
        self.pooler = model.feature_pooler
        self.join = model.generate_embedding
        self.finest = finest

    def extra_repr(self) -> str:
        """Tell networks apart that have the same modules and weights: OpenVINO's are kept by both."""
        return f"finest={self.finest}"

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D, rows, columns)."""
        stages = dict(self.extractor(images))
        if self.finest is not None:
            stages[self.finest] = halved(stages[self.finest])
        joined: Tensor = self.join({name: self.pooler(features) for name, features in stages.items()})
        return joined


def halved(features: Tensor) -> Tensor:
    """Return mean and deviation (B, 2 D, H / 2, W / 2), rounded up, of each 2 x 2 features (B, D, H, W).

    A mean alone would blur what is as fine as that. The largest of the four beside it, in the deviation's
    place, tells defects of the synthetic surfaces as well, and those of magnetic_tile less well.
    """
    mean = functional.avg_pool2d(features, 2, ceil_mode=True)
    away = features - functional.interpolate(mean, size=features.shape[-2:], mode="nearest")
    variance = functional.avg_pool2d(away * away, 2, ceil_mode=True)
    return torch.cat([mean, (variance + _LEAST_VARIANCE).sqrt()], dim=1)
