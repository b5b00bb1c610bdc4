# SPDX-License-Identifier: Apache-2.0
"""EfficientAD (Batzner et al., WACV 2024, arXiv:2303.14535) on anomalib's model.

A student learns to answer as its teacher does on good images of one surface, and on nothing else: where the
two differ the surface is not as it should be. An autoencoder, whose answers the student's second half
learns, sees what is wrong with the whole (a part missing or in the wrong place).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, PatchFeatures, Prediction, Runtime
from blemish_core.detectors.common.embedding import embeddings, score_scale, taken_scale, whitening
from blemish_core.detectors.efficientad.network import PAD, EfficientAdNetwork, of_patches
from blemish_core.detectors.efficientad.teacher import CHANNELS, SIZES
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.platform.errors import InvalidRequest
from blemish_core.runtimes.torch_runtime import TorchRuntime

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

NAME = "efficientad"


@dataclass(frozen=True)
class EfficientAdSettings:
    size: str = "small"
    """The paper's S or M."""
    input_size: int = 256
    """Side of the square input, px."""
    max_steps: int = 70_000
    """Training steps at most, of one image each."""
    max_seconds: float = 0.0
    """Time for the steps; 0 sets no limit."""
    start: str = ""
    """How the student begins: with random weights, as in the paper, or with its last layer "solved" for;
    empty solves where the steps are few or the device is a CPU."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: naming the setting and its range.
        """
        if self.size not in SIZES:
            raise InvalidRequest(
                f"size is {self.size!r}, but must be small or medium", field="efficientad.size"
            )
        if not 256 <= self.input_size <= 1024 or self.input_size % 64:
            raise InvalidRequest(
                f"input_size is {self.input_size}, but must be 256 to 1024 in steps of 64",
                field="efficientad.input_size",
            )
        if not 1 <= self.max_steps <= 1_000_000:
            raise InvalidRequest(
                f"max_steps is {self.max_steps}, but must be 1 to 1,000,000", field="efficientad.max_steps"
            )
        if self.start not in ("", "random", "solved"):
            raise InvalidRequest(
                f"start is {self.start!r}, but must be random or solved", field="efficientad.start"
            )
        if not 0 <= self.max_seconds < float("inf"):  # false for NaN
            raise InvalidRequest(
                f"max_duration is {self.max_seconds} s, but must not be negative",
                field="efficientad.max_duration",
            )


class EfficientAd:
    """Teacher, student and autoencoder, and what their maps are measured by."""

    name = NAME

    def __init__(self, settings: EfficientAdSettings, device: str | torch.device = "cpu") -> None:
        self._settings = settings
        self._device = torch.device(device)
        self._torch = EfficientAdNetwork(settings.size, self._device)
        self._runtime: Runtime | None = None
        self._preprocess = Preprocessing(settings.input_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        # What embeddings are measured by: the mean of good images' pooled features, what good patches vary
        # in, and how good images score.
        self._center = torch.zeros(CHANNELS)
        self._whitening = torch.eye(CHANNELS)
        self._score_scale = torch.tensor([0.0, 1.0])
        self._on_device()

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings)

    @property
    def model(self) -> "EfficientAdModel":
        """anomalib's, for the training."""
        return self._torch.judgement.model

    @property
    def network(self) -> nn.Module:
        return self._torch.judgement

    @property
    def runtime(self) -> Runtime:
        if self._runtime is None:
            self._runtime = TorchRuntime(self.network, self._device)
        return self._runtime

    @property
    def bytes(self) -> int:
        return self._torch.bytes + (self._runtime.bytes if self._runtime is not None else 0)

    def run_on(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def exhaustively(self) -> AbstractContextManager[None]:
        return nullcontext()  # it takes no short cuts

    def release_weights(self) -> None:
        self._torch.release()

    def tensors(self) -> dict[str, Tensor]:
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
    ) -> "EfficientAd":
        """Rebuild the detector that gave ``settings`` and ``tensors``."""
        detector = cls(EfficientAdSettings(**settings), device)
        weights = dict(tensors)
        detector._center, detector._score_scale = weights.pop("center"), taken_scale(weights)
        # Versions from before it had plain directions, and so has what was indexed of them.
        detector._whitening = weights.pop("whitening", detector._whitening)
        detector._torch = EfficientAdNetwork(detector._settings.size, detector._device, weights)
        return detector._on_device()

    def prepare(self, image: Image) -> Tensor:
        return self._preprocess(image)

    def inspect(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        return self._outcomes(*self.runtime(torch.stack(list(inputs))))

    def look(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        images = torch.stack(list(inputs))
        maps, features, *others = self.runtime(images)
        with torch.inference_mode():
            # Versions from before were published for OpenVINO without the teacher's answers.
            taught = others[0].to(self._device) if others else self._torch.taught(images)  # (B, 384, R, R)
            deviations = ((taught.permute(0, 2, 3, 1) - self._center) @ self._whitening).cpu()
            anomaly = of_patches(maps).cpu()
        return [
            PatchFeatures(*told, self._torch.spread.cpu(), self._score_scale.cpu(), PAD)
            for told in zip(self._outcomes(maps, features), deviations, anomaly, strict=True)
        ]

    def _outcomes(self, maps: Tensor, features: Tensor, *_: Tensor) -> list[Prediction]:
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

    def pooled(self, images: Tensor, taught: Tensor) -> Tensor:
        """The pooled features (B, 384) of prepared images (B, 3, S, S).

        ``taught`` is the teacher's standardised answer to them, (B, 384, R, R).
        """
        return self._torch.judgement.judged(images, taught)[1]

    def measure_maps(self, quantiles: Mapping[str, Tensor], spread: Tensor) -> None:
        """Take how the maps of good images new to the student lie.

        Args:
            quantiles: qa_st, qb_st, qa_ae, qb_ae, the 90 % and 99.5 % quantiles of each map.
            spread: what patches are pooled by, see ``temperature``.
        """
        for name, value in quantiles.items():
            self.model.quantiles[name].data.copy_(value)
        self._torch.judgement.spread.copy_(spread)

    def measure_center(self, center: Tensor) -> None:
        """Take the mean of the pooled features of good images, (384,), off every embedding."""
        self._center = center.to(self._device)

    def measure_directions(self, features: Tensor) -> None:
        """Take what features (N, 384) of good images vary in as what tells no images apart."""
        with torch.inference_mode():
            self._whitening = whitening(features).to(self._device)

    def measure_scores(self, scores: Sequence[float]) -> None:
        """Take scores of good images new to the student as the unit of scores in embeddings."""
        self._score_scale = score_scale(torch.tensor(scores)).to(self._device)

    def _on_device(self) -> "EfficientAd":
        self._center = self._center.to(self._device)
        self._score_scale = self._score_scale.to(self._device)
        self._whitening = self._whitening.to(self._device)
        return self
