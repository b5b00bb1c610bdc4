# SPDX-License-Identifier: Apache-2.0
"""PatchCore with the operations that a training needs in addition to inference."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blemish_core.detectors.base import MAPS_KEPT, HeldOutScores, highest
from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.embedding import (
    FarPatches,
    fit_directions,
    score_scale,
    temperature,
)
from blemish_core.detectors.patchcore.detector import Measured, PatchCore, near_distance

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import PatchcoreModel

_SPREAD_IMAGES = 8  # thousands of patches are enough


class TrainablePatchCore(PatchCore):
    """A PatchCore whose memory bank and statistics can be set."""

    @property
    def model(self) -> "PatchcoreModel":
        """Model of anomalib, or one with the same names around a transformer, with the memory bank."""
        model: PatchcoreModel = self._torch.model
        return model

    def load_pretrained(self, weights: Path) -> None:
        """Load the backbone's ImageNet weights; ``weights`` is the folder of imported ones.

        Raises:
            FailedPrecondition: if they are not installed; the message names the command that imports them.
            Corrupt: if the imported file cannot be read.
        """
        self._torch.load_backbone(backbones.pretrained(self._backbone, weights))

    def set_memory_bank(self, entries: Tensor) -> None:
        """Use ``entries`` (M, D) as the features of normal patches."""
        self._center = entries.mean(0)
        if not self._whitening.numel():
            self._whitening = torch.eye(len(self._center))
        self._set_bank(entries)
        self._to_device()

    def find_supports(self, on_entries: Callable[[int], None] = lambda done: None) -> None:
        """Compute the neighbours of each bank entry once, rather than for every image."""
        if self._settings.neighbors > 1:
            with torch.inference_mode():
                self._bank.find_supports(self._settings.neighbors, on_entries)

    def set_units(self, images: Sequence[Measured]) -> None:
        """Set the units of distance from good images that are not in the bank."""
        with torch.inference_mode():
            if self._settings.relative:
                levels = [
                    torch.stack([near_distance(each.distances), each.distances.mean()]) for each in images
                ]
                self._typical = torch.stack(levels).median(0).values
            some = images[:_SPREAD_IMAGES]
            distances = torch.cat([each.distances / self._unit(each.distances) for each in some])
        self._spread = temperature(distances)

    def held_out_scores(self, images: Sequence[Measured]) -> HeldOutScores:
        """Return the scores of good images in the present units."""
        with torch.inference_mode():
            results = [self._in_units(each) for each in images]
        scores = tuple(float(score) for score, _, _ in results)
        return HeldOutScores(
            scores,
            tuple(float(pixels.max()) for _, _, pixels in results),
            {number: results[number][2].cpu().numpy() for number in highest(scores, MAPS_KEPT)},
        )

    def fit_embeddings(self, images: Sequence[Measured], far: Sequence[FarPatches]) -> None:
        """Set the directions of embeddings from good images and their farthest patches."""
        with torch.inference_mode():
            in_units = [
                FarPatches(each.features.cpu(), (each.anomaly / self._unit(image.distances)).cpu())
                for image, each in zip(images, far, strict=True)
            ]
            self._stages = self._torch.stages
            self._center, self._whitening = fit_directions(in_units, self._spread.cpu(), self._stages)
        self._to_device()

    def measure_score_scale(self, scores: Sequence[float]) -> None:
        """Set the scale of scores in embeddings from two or more scores of held-out good images."""
        self._score_scale = score_scale(torch.tensor(scores)).to(self._device)
