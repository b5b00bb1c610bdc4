# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022, arXiv:2106.08265) on anomalib's model.

A memory bank holds features of normal patches. A patch is as anomalous as it is far from the bank. An image
is as anomalous as its farthest patch, weighted by the density of the bank there.

The default settings extend the paper in three ways, each of which can be switched off. A third, finer stage
of features shows defects of a few pixels. Features are whitened and weighted, see ``training.whitening``.
Distances are normalised by position, see ``position_norm``. Scores equal those of anomalib's model on the
same features, and on the paper's features with all three switched off.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
from blemish_core.detectors.common.anomaly_map import BLUR, anomaly_map
from blemish_core.detectors.common.embedding import embeddings, pooled, take_score_scale
from blemish_core.detectors.common.masking import split_looks
from blemish_core.detectors.common.torch_runtime import RuntimeHolder
from blemish_core.detectors.patchcore.memory_bank import MemoryBank, Nearest
from blemish_core.detectors.patchcore.network import PatchCoreNetwork
from blemish_core.detectors.patchcore.settings import NAME, PatchCoreSettings
from blemish_core.imaging.preprocessing import Preprocessing


class PatchCore(RuntimeHolder):
    """A memory bank and the backbone whose features it holds."""

    name = NAME

    def __init__(self, settings: PatchCoreSettings, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self._settings = settings
        self._backbone = settings.extractor()
        self._torch = PatchCoreNetwork(self._backbone, settings.neighbors, self._device)
        self._bank = MemoryBank(torch.empty(0, 0))
        self._expected: Tensor | None = None  # (P,), see position_norm
        self._preprocess = Preprocessing(settings.input_size, self._backbone.mean, self._backbone.std)
        # Parameters of embeddings: mean of the bank, whitening of good patches, spread of their distances,
        # scale of their scores.
        self._center = torch.empty(0)
        self._whitening = torch.empty(0, 0)
        self._spread = torch.ones(())
        self._score_scale = torch.tensor([0.0, 1.0])

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings) | {"fine": self._backbone.finest is not None}

    @property
    def network(self) -> nn.Module:
        return self._torch.staged

    @property
    def _own_bytes(self) -> int:
        return self._torch.bytes + self._bank.bytes

    def exact_search(self) -> AbstractContextManager[None]:
        return self._bank.exact_search()

    def release_weights(self) -> None:
        self._torch.release()

    def tensors(self) -> dict[str, Tensor]:
        # The names are those in stored bundles.
        tensors = self._torch.model.state_dict() | {
            "center": self._center,
            "whitening": self._whitening,
            "spread": self._spread,
            "score_scale": self._score_scale,
        }
        if (layer := self._torch.staged.projection) is not None:
            assert layer.bias is not None
            tensors |= {"feature_whitening": layer.weight[:, :, 0, 0], "feature_shift": layer.bias}
        if self._expected is not None:
            tensors["usual_distances"] = self._expected
        if self._bank.centroids is not None:
            tensors["index_centroids"] = self._bank.centroids
        if self._bank.supports is not None:
            tensors["supports"] = self._bank.supports
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def load(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
    ) -> Self:
        """Rebuild a detector from its ``settings`` and ``tensors``, also those of older versions."""
        # Versions without these settings use plain features of two stages.
        checked = PatchCoreSettings(**({"whitened": False, "fine": False} | dict(settings)))
        detector = cls(checked, device)
        weights = dict(tensors)
        detector._center, detector._spread = weights.pop("center"), weights.pop("spread")
        detector._score_scale = take_score_scale(weights)
        # Versions without this tensor have unwhitened embeddings, as have the images indexed with them.
        detector._whitening = weights.pop("whitening", torch.eye(len(detector._center)))
        detector._expected = weights.pop("usual_distances", None)
        centroids, supports = weights.pop("index_centroids", None), weights.pop("supports", None)
        projection = None
        if (matrix := weights.pop("feature_whitening", None)) is not None:
            projection = matrix, weights.pop("feature_shift")
        entries = weights.pop("memory_bank")
        detector._torch = PatchCoreNetwork(
            detector._backbone, checked.neighbors, detector._device, weights, projection
        )
        detector._set_bank(entries, centroids, supports)
        detector._to_device()
        return detector

    def _prepare(self, image: Image) -> Tensor:
        return self._preprocess(image)

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        with torch.inference_mode():
            patches, grid = self.features(inputs)
            return self.predict_from_features(patches, grid)

    def predict_with_patches(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        with torch.inference_mode():
            features, grid = self.features(inputs)
            features = features.to(self._device).contiguous()
            scored = self._score(features, grid)
            deviations = ((features - self._center) @ self._whitening).cpu()
        return [
            PatchFeatures(
                prediction,
                patches.reshape(*grid, -1),
                distances.reshape(grid).cpu(),
                self._spread.cpu(),
                self._score_scale.cpu(),
                margin=0,
            )
            for (prediction, distances), patches in zip(scored, deviations, strict=True)
        ]

    def features(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """Return patch features (B, P, D) and the grid (rows, columns) of the P patches."""
        pixels, _ = split_looks(inputs)
        # A view avoids a copy of a single input, the usual case on a CPU.
        batch = pixels[0][None] if len(pixels) == 1 else torch.stack(pixels)
        (maps,) = self.runtime(batch)  # (B, D, rows, columns)
        rows, columns = maps.shape[-2:]
        return maps.flatten(2).transpose(1, 2), (rows, columns)

    def predict_from_features(self, features: Tensor, grid: tuple[int, int]) -> list[Prediction]:
        """Score features (B, P, D) as anomalib's ``PatchcoreModel.forward`` does, and embed them."""
        return [prediction for prediction, _ in self._score(features.to(self._device).contiguous(), grid)]

    def _score(self, features: Tensor, grid: tuple[int, int]) -> list[tuple[Prediction, Tensor]]:
        """Return predictions with the distances (P,) of their patches."""
        nearest = [self._nearest(patches, grid) for patches in features]
        scores = torch.stack(
            [
                self._bank.image_score(patches, found, self._settings.neighbors)
                for patches, found in zip(features, nearest, strict=True)
            ]
        )
        side = self._settings.input_size
        maps = [anomaly_map(found.distances.reshape(grid), side, BLUR) for found in nearest]
        distances = torch.stack([found.distances for found in nearest])  # (B, P)
        gathered = pooled(features, distances, self._spread)
        vectors = embeddings(gathered, self._center, self._whitening, scores, self._score_scale)
        predictions = [
            Prediction(score, pixels.cpu().numpy(), vector)
            for score, pixels, vector in zip(scores.tolist(), maps, vectors.cpu().numpy(), strict=True)
        ]
        return list(zip(predictions, distances, strict=True))

    def _nearest(self, patches: Tensor, grid: tuple[int, int] | None = None) -> Nearest:
        return self._bank.nearest(patches, grid, self._expected)

    def _set_bank(
        self, entries: Tensor, centroids: Tensor | None = None, supports: Tensor | None = None
    ) -> None:
        supports = supports.to(self._device) if supports is not None else None
        self._bank = MemoryBank(entries.to(self._device), centroids, supports)
        self._torch.set_memory_bank(self._bank.entries)  # the same tensor, not a copy

    def _to_device(self) -> None:
        self._center, self._spread = self._center.to(self._device), self._spread.to(self._device)
        self._whitening = self._whitening.to(self._device)
        self._score_scale = self._score_scale.to(self._device)
        if self._expected is not None:
            self._expected = self._expected.to(self._device)
