# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022, arXiv:2106.08265) on anomalib's model.

A memory bank holds features of normal patches. A patch is as anomalous as it is far from the bank. An image
is as anomalous as its farthest patch, weighted by the density of the bank there.

By default, distances are relative to those of the image's nearer patches, unlike the paper's. Without that,
scores equal those of anomalib's model on the same features. Models of older versions have a third, finer
stage of features, whiten them, and divide distances by position.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
from blemish_core.detectors.common.anomaly_map import BLUR, anomaly_map
from blemish_core.detectors.common.embedding import embeddings, pooled, take_score_scale
from blemish_core.detectors.common.masking import hide_ignored, on_grid, patch_looks, split_looks
from blemish_core.detectors.common.torch_runtime import RuntimeHolder
from blemish_core.detectors.patchcore.memory_bank import MemoryBank
from blemish_core.detectors.patchcore.network import PatchCoreNetwork
from blemish_core.detectors.patchcore.settings import (
    MOST_UNIT,
    NAME,
    NEAR,
    OLD_INPUT_SIZE,
    PRIOR,
    PatchCoreSettings,
    stored,
)
from blemish_core.detectors.patchcore.tiling import tiled_features
from blemish_core.imaging.geometry import ANY_SIZE, Size
from blemish_core.imaging.preprocessing import Preprocessing

_LEAST_WEIGHT = 1e-3
"""Weight of counted patches below which a pixel has no value of its own."""


@dataclass(frozen=True)
class Patches:
    """The patches of one image, without those that a mask ignores."""

    features: Tensor
    """(P, D)."""
    grid: tuple[int, int]
    """Rows and columns of all patches of the image."""
    size: Size
    """Size of the input that they come from."""
    looks: Tensor | None = None
    """Mask of the input, bool (h, w); None if the P patches are all of the grid, row by row."""


@dataclass(frozen=True)
class Measured:
    """The distances of one image to the memory bank, in the unit of features."""

    score: Tensor
    """(), distance of the image."""
    distances: Tensor
    """(P,), distances of its patches."""
    grid: tuple[int, int]
    """Rows and columns of all patches of the image."""
    size: Size
    """Size of the input."""
    looks: Tensor | None = None
    """Mask of the input, see ``Patches``."""


@dataclass(frozen=True)
class _Scored:
    patches: Patches
    prediction: Prediction
    distances: Tensor
    """(P,)."""


class PatchCore(RuntimeHolder):
    """A memory bank and the backbone whose features it holds."""

    name = NAME

    def __init__(self, settings: PatchCoreSettings, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self._settings = settings
        self._backbone = settings.extractor()
        self._torch = PatchCoreNetwork(self._backbone, settings.neighbors, self._device)
        self._bank = MemoryBank(torch.empty(0, 0))
        self._expected: Tensor | None = None  # (P,), of older versions
        self._preprocess = Preprocessing(settings.geometry, self._backbone.mean, self._backbone.std)
        # Parameters of embeddings, see embedding.embeddings, and the temperature of their pooling.
        self._center = torch.empty(0)
        self._whitening = torch.empty(0, 0)
        self._stages: tuple[int, ...] = ()
        self._spread = torch.ones(())
        # (2,), near and mean distance of a typical good image; None leaves distances as they are.
        self._typical: Tensor | None = None
        self._score_scale = torch.tensor([0.0, 1.0])

    @property
    def input_size(self) -> int:
        return self._settings.input_size or OLD_INPUT_SIZE

    @property
    def network_size(self) -> Size:
        return (self.input_size, self.input_size) if self._settings.scale is None else ANY_SIZE

    @property
    def frame(self) -> Size | None:
        return self._settings.frame

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings)

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
        if self._stages:
            tensors["embedding_stages"] = torch.tensor(self._stages)
        if self._expected is not None:
            tensors["usual_distances"] = self._expected
        if self._typical is not None:
            tensors["typical_distance"] = self._typical
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
        checked = stored(settings)
        detector = cls(checked, device)
        weights = dict(tensors)
        detector._center, detector._spread = weights.pop("center"), weights.pop("spread")
        detector._score_scale = take_score_scale(weights)
        # Versions without this tensor have unwhitened embeddings, as have the images indexed with them.
        detector._whitening = weights.pop("whitening", torch.eye(len(detector._center)))
        if (stages := weights.pop("embedding_stages", None)) is not None:
            detector._stages = tuple(stages.tolist())
        detector._expected = weights.pop("usual_distances", None)
        detector._typical = weights.pop("typical_distance", None)
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
        return torch.from_numpy(self._preprocess(image))

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        with torch.inference_mode():
            return [self._score(patches).prediction for patches in self._each_patches(inputs)]

    def predict_with_patches(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        with torch.inference_mode():
            return [self._with_features(self._score(patches)) for patches in self._each_patches(inputs)]

    def patches(self, inputs: Sequence[Tensor]) -> list[Patches]:
        """Return the patches of each input that its mask does not ignore, on the detector's device."""
        return list(self._each_patches(inputs))

    def _each_patches(self, inputs: Sequence[Tensor]) -> Iterator[Patches]:
        """Yield what ``patches`` returns: those of several large inputs need not be in memory at once."""
        images, looks = split_looks(inputs)
        found = zip(images, looks, tiled_features(self.runtime, images, torch), strict=True)
        for image, seen, features in found:
            counted = _counted(features, seen).to(self._device).contiguous()
            yield Patches(counted, _shape(features), _size(image), seen)

    def score_patches(self, patches: Patches) -> Prediction:
        """Score the patches of one image as anomalib's ``PatchcoreModel.forward`` does, and embed them."""
        return self._score(patches).prediction

    def _score(self, patches: Patches) -> "_Scored":
        measured = self.measure(patches)
        score, distances, pixels = self._in_units(measured)
        gathered = pooled(patches.features[None], distances[None], self._spread)
        vectors = embeddings(
            gathered, self._center, self._whitening, score[None], self._score_scale, self._stages
        )
        prediction = Prediction(float(score), pixels.cpu().numpy(), vectors[0].cpu().numpy())
        return _Scored(patches, prediction, distances)

    def measure(self, patches: Patches) -> Measured:
        """Return the distances of an image to the memory bank."""
        settings = self._settings
        grid = patches.grid if patches.looks is None else None
        nearest = self._bank.nearest(patches.features, grid, self._expected)
        score = self._bank.image_score(patches.features, nearest, settings.neighbors)
        return Measured(score, nearest.distances, patches.grid, patches.size, patches.looks)

    def _in_units(self, measured: Measured) -> tuple[Tensor, Tensor, Tensor]:
        """Return the score (), distances (P,) and map (h, w) of an image, in its unit of distance."""
        unit = self._unit(measured.distances)
        distances = measured.distances / unit
        return measured.score / unit, distances, _map(distances, measured)

    def _unit(self, distances: Tensor) -> Tensor:
        """Return the distance that counts as 1 in an image, (), from the distances (P,) of its patches.

        It follows the nearer patches of the image, so that coarser grain or another light is no anomaly.
        """
        if self._typical is None:
            return torch.ones((), device=distances.device)
        near, mean = self._typical
        prior = PRIOR * mean
        unit: Tensor = (near_distance(distances) + prior) / (near + prior)
        return unit.clamp_max(MOST_UNIT)

    def _with_features(self, scored: "_Scored") -> PatchFeatures:
        patches = scored.patches
        deviations = (patches.features - self._center) @ self._whitening
        # Patches that the mask ignores are similar to nothing, and no anomaly.
        looks, grid, distances = patches.looks, patches.grid, scored.distances
        return PatchFeatures(
            scored.prediction,
            on_grid(deviations, looks, grid, 0.0).cpu().numpy(),
            on_grid(distances, looks, grid, float(distances.min())).cpu().numpy(),
            float(self._spread),
            self._score_scale.cpu().numpy(),
            margin=0,
            stages=self._stages,
        )

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
        if self._typical is not None:
            self._typical = self._typical.to(self._device)


def _counted(features: Tensor, looks: Tensor | None) -> Tensor:
    """Return the patches (P, D) of features (D, rows, columns) that a mask (h, w) does not ignore."""
    patches = features.flatten(1).T
    if looks is None:
        return patches
    return patches[patch_looks(looks, _shape(features)).flatten().to(patches.device)]


def _map(distances: Tensor, measured: Measured) -> Tensor:
    """Return the anomaly map (h, w) of distances (P,), lowest where the mask ignores the input."""
    grid, size, looks = measured.grid, measured.size, measured.looks
    if looks is None:
        return anomaly_map(distances.reshape(grid), size, BLUR)
    # The blur takes the mean of patches that count: others would lower it next to them.
    ones = torch.ones_like(distances)
    weights = anomaly_map(on_grid(ones, looks, grid, 0.0), size, BLUR)
    sums = anomaly_map(on_grid(distances, looks, grid, 0.0), size, BLUR)
    means = torch.where(weights > _LEAST_WEIGHT, sums / weights.clamp_min(_LEAST_WEIGHT), distances.min())
    return hide_ignored(means, looks.to(means.device))


def _shape(features: Tensor) -> tuple[int, int]:
    rows, columns = features.shape[-2:]
    return rows, columns


def _size(image: Tensor) -> Size:
    height, width = image.shape[-2:]
    return height, width


def near_distance(distances: Tensor) -> Tensor:
    """Return the distance, (), that a tenth of the distances (P,) do not exceed."""
    return distances.kthvalue(max(1, round(NEAR * len(distances)))).values
