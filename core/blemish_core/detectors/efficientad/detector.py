# SPDX-License-Identifier: Apache-2.0
"""EfficientAD (Batzner et al., WACV 2024, arXiv:2303.14535) on anomalib's model.

A student network learns to predict the features of a teacher network on good images of one surface. Where
the two differ, the surface is anomalous. An autoencoder, which the second half of the student's output
learns to predict, detects errors of the whole, such as a missing or misplaced part.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, PatchFeatures, Prediction
from blemish_core.detectors.common.embedding import embeddings, pooled, take_score_scale
from blemish_core.detectors.common.masking import hide_ignored, split_looks
from blemish_core.detectors.common.torch_runtime import RuntimeHolder
from blemish_core.detectors.efficientad.network import EfficientAdNetwork, patch_anomaly, patches_seen
from blemish_core.detectors.efficientad.settings import CHANNELS, MARGIN, NAME, EfficientAdSettings
from blemish_core.imaging.geometry import Size, Square
from blemish_core.imaging.preprocessing import Preprocessing


class EfficientAd(RuntimeHolder):
    """Teacher, student and autoencoder, with the statistics that normalise their maps."""

    name = NAME

    def __init__(
        self,
        settings: EfficientAdSettings,
        device: str | torch.device = "cpu",
        *,
        autoencoder: bool = True,
    ) -> None:
        """Make an untrained detector, without the autoencoder and what predicts it if it is False."""
        super().__init__(device)
        self._settings = settings
        self._torch = EfficientAdNetwork(settings.size, self._device, autoencoder=autoencoder)
        self._preprocess = Preprocessing(Square(settings.input_size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        # Parameters of embeddings: mean of good images' pooled features, whitening of good patches, and
        # scale of good images' scores.
        self._center = torch.zeros(CHANNELS)
        self._whitening = torch.eye(CHANNELS)
        self._score_scale = torch.tensor([0.0, 1.0])
        self._to_device()

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def network_size(self) -> Size:
        return self.input_size, self.input_size

    @property
    def frame(self) -> Size | None:
        return None

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings)

    @property
    def network(self) -> nn.Module:
        return self._torch.built

    @property
    def _own_bytes(self) -> int:
        return self._torch.bytes

    def exact_search(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing is approximate

    def release_weights(self) -> None:
        self._torch.release()

    def tensors(self) -> dict[str, Tensor]:
        # The names are those in stored bundles.
        tensors = self.network.state_dict() | {
            "center": self._center,
            "whitening": self._whitening,
            "score_scale": self._score_scale,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def load(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
    ) -> Self:
        """Rebuild a detector from its ``settings`` and ``tensors``, also those of older versions."""
        detector = cls(EfficientAdSettings(**settings), device)
        weights = dict(tensors)
        detector._center, detector._score_scale = weights.pop("center"), take_score_scale(weights)
        # Versions without this tensor have unwhitened embeddings, as have the images indexed with them.
        detector._whitening = weights.pop("whitening", detector._whitening)
        detector._torch = EfficientAdNetwork(detector._settings.size, detector._device, weights)
        detector._to_device()
        return detector

    def _prepare(self, image: Image) -> Tensor:
        return torch.from_numpy(self._preprocess(image))

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        maps, features, *_ = self.outputs(inputs)
        return self._predictions(maps, features)

    def predict_with_patches(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        maps, features, *others = self.outputs(inputs)
        pixels, looks = split_looks(inputs)
        with torch.inference_mode():
            # OpenVINO networks of older versions do not return the teacher's features.
            teacher_features = (
                others[0].to(self._device) if others else self._torch.teacher_features(torch.stack(pixels))
            )  # (B, 384, R, R)
            deviations = ((teacher_features.permute(0, 2, 3, 1) - self._center) @ self._whitening).cpu()
            anomaly = patch_anomaly(maps).cpu()
            for each, seen in zip(deviations, looks, strict=True):
                if seen is not None:
                    each[~patches_seen(seen.cpu())] = 0  # similar to nothing
        return [
            PatchFeatures(
                prediction,
                away.numpy(),
                levels.numpy(),
                float(self._torch.spread),
                self._score_scale.cpu().numpy(),
                MARGIN,
            )
            for prediction, away, levels in zip(
                self._predictions(maps, features), deviations, anomaly, strict=True
            )
        ]

    def outputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps (B, 1, S, S), pooled features (B, 384) and the teacher's features (B, 384, R, R).

        Maps have their lowest value at pixels that a mask ignores, and nothing of these is pooled. Networks
        of older versions, which have no masks, do not return the teacher's features.
        """
        pixels, looks = split_looks(inputs)
        maps, features, *others = self.runtime(torch.stack(pixels))
        if all(each is None for each in looks):
            return maps, features, *others
        (teacher_features,) = others
        with torch.inference_mode():
            maps, features = maps.clone(), features.clone()
            for number, each in enumerate(looks):
                if each is None:
                    continue
                counted = each.to(maps.device)
                maps[number] = hide_ignored(maps[number], counted)
                ignored = ~patches_seen(counted)
                anomaly = patch_anomaly(maps[number : number + 1]).masked_fill(ignored, -torch.inf)
                patches = teacher_features[number].flatten(1).T[None].to(maps.device)
                features[number] = pooled(patches, anomaly.flatten(1), self._torch.spread)[0]
        return maps, features, teacher_features

    def _predictions(self, maps: Tensor, features: Tensor) -> list[Prediction]:
        with torch.inference_mode():
            scores = maps.amax((1, 2, 3))
            center, whitening, scale = (
                t.to(scores.device) for t in (self._center, self._whitening, self._score_scale)
            )
            vectors = embeddings(features, center, whitening, scores, scale)
        return [
            Prediction(score, np.ascontiguousarray(pixels), vector)
            for score, pixels, vector in zip(
                scores.tolist(), maps[:, 0].cpu().numpy(), vectors.cpu().numpy(), strict=True
            )
        ]

    def _to_device(self) -> None:
        self._center = self._center.to(self._device)
        self._score_scale = self._score_scale.to(self._device)
        self._whitening = self._whitening.to(self._device)
