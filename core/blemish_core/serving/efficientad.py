# SPDX-License-Identifier: Apache-2.0
"""EfficientAD in NumPy, see ``detectors.efficientad.detector`` for the method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
from blemish_core.detectors.efficientad.settings import (
    CHANNELS,
    MARGIN,
    NAME,
    STRIDE,
    EfficientAdSettings,
)
from blemish_core.imaging.geometry import Size, Square
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.serving.detector import ArrayDetector, ArrayRuntime, TensorFile
from blemish_core.serving.embedding import embedding, pooled
from blemish_core.serving.masking import Mask, hide_ignored, patch_looks, split_looks

Floats = NDArray[np.float32]

OUTPUTS = 3
"""Maps, pooled features and the teacher's features. Networks of older versions lack the last."""


class ServedEfficientAd(ArrayDetector):
    """A runtime for teacher, student and autoencoder, and the parameters of embeddings."""

    name = NAME

    def __init__(self, settings: EfficientAdSettings, tensors: TensorFile, runtime: ArrayRuntime) -> None:
        super().__init__(runtime)
        self._settings = settings
        self._preprocess = Preprocessing(Square(settings.input_size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self._center, self._score_scale = tensors["center"], tensors.score_scale()
        # Versions without this tensor have unwhitened embeddings, as have the images indexed with them.
        whitening = tensors.get("whitening")
        self._whitening = np.eye(CHANNELS, dtype=np.float32) if whitening is None else whitening
        self._spread = float(tensors["spread"])

    @classmethod
    def load(
        cls, settings: Mapping[str, Any], tensors: TensorFile, runtime: ArrayRuntime
    ) -> "ServedEfficientAd":
        """Rebuild a detector from the settings and tensors of a bundle, also of older versions."""
        return cls(EfficientAdSettings(**settings), tensors, runtime)

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def frame(self) -> Size | None:
        return None

    @property
    def bytes(self) -> int:
        arrays = (self._center, self._whitening, self._score_scale)
        return sum(array.nbytes for array in arrays) + self._runtime.bytes

    def _prepare(self, image: Image) -> Floats:
        return self._preprocess(image)

    def predict(self, inputs: Sequence[Floats]) -> list[Prediction]:
        maps, features, *_ = self._outputs(inputs)
        return self._predictions(maps, features)

    def predict_with_patches(self, inputs: Sequence[Floats]) -> list[PatchFeatures]:
        """Score prepared images and return features of their patches.

        Raises:
            FailedPrecondition: if the network is of an older version, which lacks them.
        """
        maps, features, *others = self._outputs(inputs)
        if not others:
            raise FailedPrecondition(
                "the network of this version returns no features of patches; train again, or install "
                "blemish[core] for the server"
            )
        deviations = (others[0].transpose(0, 2, 3, 1) - self._center) @ self._whitening
        for away, image in zip(deviations, inputs, strict=True):
            if (seen := split_looks(image)[1]) is not None:
                away[~_patches_seen(seen)] = 0  # similar to nothing
        return [
            PatchFeatures(prediction, away, anomaly, self._spread, self._score_scale, MARGIN)
            for prediction, away, anomaly in zip(
                self._predictions(maps, features), deviations, _patch_anomaly(maps), strict=True
            )
        ]

    def _outputs(self, inputs: Sequence[Floats]) -> tuple[Floats, ...]:
        """Return maps (B, 1, S, S), pooled features (B, 384) and the teacher's features (B, 384, R, R).

        Maps have their lowest value at pixels that a mask ignores, and nothing of these is pooled.
        """
        pixels, looks = zip(*map(split_looks, inputs), strict=True)
        maps, features, *others = self._runtime.infer(
            pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        )
        for number, seen in enumerate(looks):
            if seen is None:
                continue
            maps[number, 0] = hide_ignored(maps[number, 0], seen)
            counted = _patches_seen(seen)
            anomaly = _patch_anomaly(maps[number : number + 1])[0]
            patches = others[0][number].transpose(1, 2, 0)
            features[number] = pooled(patches[counted], anomaly[counted], self._spread)
        return maps, features, *others

    def _predictions(self, maps: Floats, features: Floats) -> list[Prediction]:
        return [
            Prediction(
                float(score),
                np.ascontiguousarray(pixels[0]),
                embedding(each, self._center, self._whitening, float(score), self._score_scale),
            )
            for score, pixels, each in zip(maps.max((1, 2, 3)), maps, features, strict=True)
        ]


def _patch_anomaly(maps: Floats) -> Floats:
    """Return the anomaly (B, R, R) of the teacher's patches from maps (B, 1, S, S)."""
    count, _, rows, columns = maps.shape
    cells = maps.reshape(count, rows // STRIDE, STRIDE, columns // STRIDE, STRIDE)
    inner: Floats = cells.mean((2, 4))[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return inner


def _patches_seen(looks: Mask) -> Mask:
    """Return which patches of the teacher count, (R, R), for the mask (S, S) of an image."""
    border = MARGIN * STRIDE
    rows, columns = (length // STRIDE - 2 * MARGIN for length in looks.shape)
    return patch_looks(looks[border:-border, border:-border], (rows, columns))
