# SPDX-License-Identifier: Apache-2.0
"""PatchCore with the operations that a training needs in addition to inference."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.embedding import TEMPERATURE, score_scale, temperature, whitening
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.position_norm import expected_distances
from blemish_core.imaging.preprocessing import Preprocessing

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import PatchcoreModel

# Distances of whitened features spread less, see embedding.TEMPERATURE.
_WHITENED_TEMPERATURE = 0.5


class TrainablePatchCore(PatchCore):
    """A PatchCore whose memory bank and statistics can be set."""

    @property
    def model(self) -> "PatchcoreModel":
        """Model of anomalib, with the memory bank but without whitening."""
        return self._torch.model

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of images."""
        return self._preprocess

    def load_pretrained(self, weights: Path) -> None:
        """Load the backbone's ImageNet weights; ``weights`` is the folder of imported ones.

        Raises:
            FailedPrecondition: if they are not installed; the message names the command that imports them.
            Corrupt: if the imported file cannot be read.
        """
        self._torch.load_backbone(backbones.pretrained(self._backbone, weights))

    def set_whitening(self, matrix: Tensor, shift: Tensor, leveling: Tensor) -> None:
        """Multiply features (P, D) by a symmetric matrix (D, D) and add ``shift`` (D,) from now on.

        Embeddings use the features times ``leveling`` (D, D).
        """
        self._torch.project(matrix, shift)
        self._whitening = leveling.to(self._device)

    def set_memory_bank(self, entries: Tensor) -> None:
        """Use ``entries`` (M, D) as the features of normal patches."""
        self._center = entries.mean(0)
        if not self._whitening.numel():
            self._whitening = torch.eye(len(self._center))
        self._expected = None
        self._set_bank(entries)
        self._to_device()

    def find_supports(self, on_entries: Callable[[int], None] = lambda done: None) -> None:
        """Compute the neighbours of each bank entry once, rather than for every image."""
        if self._settings.neighbors > 1:
            with torch.inference_mode():
                self._bank.find_supports(self._settings.neighbors, on_entries)

    def measure_spread(self, features: Tensor) -> None:
        """Set the unit of distance from features (B, P, D) of good images."""
        with torch.inference_mode():
            distances = [self._nearest(patches).distances for patches in features.to(self._device)]
        share = _WHITENED_TEMPERATURE if self._settings.whitened else TEMPERATURE
        self._spread = temperature(torch.cat(distances), share)

    def measure_expected_distances(
        self,
        features: Tensor,
        grid: tuple[int, int],
        images: Sequence[int],
        owners: Tensor,
        on_images: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Set the expected distance at each position of the grid from good images.

        Args:
            features: (N, P, D).
            grid: rows and columns of the P patches.
            images: indices of the images to measure.
            owners: (M,), index of the image that each bank entry comes from. Entries of an image are left
                out when that image is measured.
            on_images: called with the number of images measured so far.
        """
        owners = owners.to(self._device)
        measured = []
        with torch.inference_mode():
            for done, image in enumerate(images):
                on_images(done)
                excluded = owners == image
                if not excluded.all():
                    patches = features[image].to(self._device)
                    measured.append(self._bank.distances_to_others(patches, excluded))
        on_images(len(images))
        distances = torch.stack(measured) if measured else features.new_empty(0, features.shape[1])
        self._expected = expected_distances(distances, grid).to(self._device)

    def measure_embedding_whitening(self, features: Tensor) -> None:
        """Set the whitening of embeddings from features (B, P, D) of good images."""
        with torch.inference_mode():
            self._whitening = whitening(features.flatten(0, 1)).to(self._device)

    def measure_score_scale(self, scores: Sequence[float]) -> None:
        """Set the scale of scores in embeddings from two or more scores of held-out good images."""
        self._score_scale = score_scale(torch.tensor(scores)).to(self._device)
