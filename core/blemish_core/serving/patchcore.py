# SPDX-License-Identifier: Apache-2.0
"""PatchCore in NumPy, see ``detectors.patchcore.detector`` for the method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
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
from blemish_core.imaging.geometry import Size
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.serving.anomaly_map import anomaly_map
from blemish_core.serving.detector import ArrayDetector, ArrayRuntime, TensorFile
from blemish_core.serving.embedding import embedding, pooled
from blemish_core.serving.masking import Mask, hide_ignored, on_grid, patch_looks, split_looks
from blemish_core.serving.memory_bank import ServedBank

Floats = NDArray[np.float32]

_LEAST_WEIGHT = np.float32(1e-3)
"""Weight of counted patches below which a pixel has no value of its own."""


@dataclass(frozen=True)
class _PatchArrays:
    """The patches of one image, without those that a mask ignores."""

    features: Floats
    """(P, D)."""
    grid: tuple[int, int]
    """Rows and columns of all patches of the image."""
    size: Size
    """Size of the input that they come from."""
    looks: Mask | None
    """Mask of the input, (h, w); None if the P patches are all of the grid, row by row."""


class ServedPatchCore(ArrayDetector):
    """A memory bank, and a runtime for the backbone whose features it holds."""

    name = NAME

    def __init__(self, settings: PatchCoreSettings, tensors: TensorFile, runtime: ArrayRuntime) -> None:
        super().__init__(runtime)
        self._settings = settings
        self._preprocess = Preprocessing(settings.geometry, *settings.channels())
        self._center, self._spread = tensors["center"], float(tensors["spread"])
        self._score_scale = tensors.score_scale()
        # Versions without this tensor have unwhitened embeddings, as have the images indexed with them.
        whitening = tensors.get("whitening")
        self._whitening = np.eye(len(self._center), dtype=np.float32) if whitening is None else whitening
        stages = tensors.get("embedding_stages")
        self._stages: tuple[int, ...] = () if stages is None else tuple(map(int, stages))
        self._expected = tensors.get("usual_distances")
        self._typical = tensors.get("typical_distance")
        self._bank = ServedBank(
            tensors["memory_bank"], tensors.get("index_centroids"), tensors.get("supports")
        )

    @classmethod
    def load(
        cls, settings: Mapping[str, Any], tensors: TensorFile, runtime: ArrayRuntime
    ) -> "ServedPatchCore":
        """Rebuild a detector from the settings and tensors of a bundle, also of older versions."""
        return cls(stored(settings), tensors, runtime)

    @property
    def input_size(self) -> int:
        return self._settings.input_size or OLD_INPUT_SIZE

    @property
    def frame(self) -> Size | None:
        return self._settings.frame

    @property
    def bytes(self) -> int:
        return self._bank.bytes + self._runtime.bytes

    def _prepare(self, image: Image) -> Floats:
        return self._preprocess(image)

    def predict(self, inputs: Sequence[Floats]) -> list[Prediction]:
        return [self._score(patches)[0] for patches in self._each_patches(inputs)]

    def predict_with_patches(self, inputs: Sequence[Floats]) -> list[PatchFeatures]:
        return [self._with_features(patches) for patches in self._each_patches(inputs)]

    def _each_patches(self, inputs: Sequence[Floats]) -> Iterator[_PatchArrays]:
        """Yield the patches of each input: those of several large inputs need not be in memory at once."""
        images, looks = zip(*map(split_looks, inputs), strict=True)
        found = tiled_features(self._runtime.infer, images, np)
        for image, seen, features in zip(images, looks, found, strict=True):
            depth, *grid = features.shape
            rows, columns = grid
            patches = features.reshape(depth, -1).T
            if seen is not None:
                patches = patches[patch_looks(seen, (rows, columns)).ravel()]
            yield _PatchArrays(np.ascontiguousarray(patches), (rows, columns), image.shape[-2:], seen)

    def _score(self, patches: _PatchArrays) -> tuple[Prediction, Floats]:
        """Return the prediction and the distances (P,) of an image, in its unit of distance."""
        grid = patches.grid if patches.looks is None else None
        nearest = self._bank.nearest(patches.features, grid, self._expected)
        distance = self._bank.image_score(patches.features, nearest, self._settings.neighbors)
        unit = self._unit(nearest.distances)
        score, distances = distance / unit, nearest.distances / unit
        gathered = pooled(patches.features, distances, self._spread)
        vector = embedding(
            gathered, self._center, self._whitening, float(score), self._score_scale, self._stages
        )
        return Prediction(float(score), _map(distances, patches), vector), distances

    def _unit(self, distances: Floats) -> np.float32:
        """Return the distance that counts as 1 in an image, from the distances (P,) of its patches."""
        if self._typical is None:
            return np.float32(1)
        near, mean = self._typical
        prior = np.float32(PRIOR) * mean
        unit = (_near_distance(distances) + prior) / (near + prior)
        return np.float32(min(unit, MOST_UNIT))

    def _with_features(self, patches: _PatchArrays) -> PatchFeatures:
        prediction, distances = self._score(patches)
        deviations = (patches.features - self._center) @ self._whitening
        # Patches that the mask ignores are similar to nothing, and no anomaly.
        looks, grid = patches.looks, patches.grid
        return PatchFeatures(
            prediction,
            on_grid(deviations, looks, grid, 0.0),
            on_grid(distances, looks, grid, float(distances.min())),
            self._spread,
            self._score_scale,
            margin=0,
            stages=self._stages,
        )


def _map(distances: Floats, patches: _PatchArrays) -> Floats:
    """Return the anomaly map (h, w) of distances (P,), lowest where the mask ignores the input."""
    grid, size, looks = patches.grid, patches.size, patches.looks
    if looks is None:
        return anomaly_map(distances.reshape(grid), size)
    # The blur takes the mean of patches that count: others would lower it next to them.
    weights = anomaly_map(on_grid(np.ones_like(distances), looks, grid, 0.0), size)
    sums = anomaly_map(on_grid(distances, looks, grid, 0.0), size)
    means = np.where(weights > _LEAST_WEIGHT, sums / np.maximum(weights, _LEAST_WEIGHT), distances.min())
    return hide_ignored(means, looks)


def _near_distance(distances: Floats) -> np.float32:
    """Return the distance that a tenth of the distances (P,) do not exceed."""
    number = max(1, round(NEAR * len(distances))) - 1
    return np.float32(np.partition(distances, number)[number])
