# SPDX-License-Identifier: Apache-2.0
"""EfficientAD (Batzner et al., WACV 2024, arXiv:2303.14535) on anomalib's model.

A student learns to answer as its teacher does on good images of one surface, and on nothing else: where the
two differ the surface is not as it should be. An autoencoder, whose answers the student's second half
learns, sees what is wrong with the whole (a part missing or in the wrong place).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.detector import Image, Look, Outcome, Runtime, held_bytes, release
from blemish_core.detectors.embedding import embeddings, pooled, score_unit, whitening
from blemish_core.detectors.teacher import CHANNELS, SIZES
from blemish_core.errors import InvalidRequest
from blemish_core.preprocessing import Preprocessing
from blemish_core.runtimes.on_torch import TorchRuntime

if TYPE_CHECKING:
    from blemish_core.detectors.anomalib_models import EfficientAdModel

NAME = "efficientad"
_STRIDE = 4  # px from one patch to the next
_PAD = 4  # patches that the maps are padded by, each side: the network's own field of view is lost there


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
        # Only now: it takes seconds, and a server or a worker may wait long for its first detector.
        from blemish_core.detectors.anomalib_models import EfficientAdModel, EfficientAdModelSize

        self._settings = settings
        self._device = torch.device(device)
        self.model = EfficientAdModel(CHANNELS, EfficientAdModelSize(settings.size)).eval()
        """anomalib's, for the training."""
        self._network = _Judgement(self.model)
        self._runtime: Runtime = TorchRuntime(self._network, self._device)
        self._preprocess = Preprocessing(settings.input_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self._good_scores = torch.tensor([0.0, 1.0])
        self._whitening = torch.eye(CHANNELS)
        self._on_device()

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings)

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    @property
    def bytes(self) -> int:
        return held_bytes(self._network) + self._runtime.bytes

    def run_on(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def release_weights(self) -> None:
        # What the teacher says of each patch is no answer of the network: ``look`` asks it again.
        asked = {*self.model.teacher.parameters(), *self.model.mean_std.values()}
        release(parameter for parameter in self._network.parameters() if parameter not in asked)

    def tensors(self) -> dict[str, Tensor]:
        tensors = self._network.state_dict() | {
            "good_scores": self._good_scores,
            "whitening": self._whitening,
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
        detector._good_scores = weights.pop("good_scores")
        # Versions from before it had plain directions, and so has what was indexed of them.
        detector._whitening = weights.pop("whitening", detector._whitening)
        detector._network.load_state_dict(weights)
        return detector._on_device()

    def prepare(self, image: Image) -> Tensor:
        return self._preprocess(image)

    def inspect(self, inputs: Sequence[Tensor]) -> list[Outcome]:
        with torch.inference_mode():
            maps, features = self._runtime(torch.stack(list(inputs)))
            scores = maps.amax((1, 2, 3))
            center = self._network.center.to(scores.device)
            whitening, good_scores = (t.to(scores.device) for t in (self._whitening, self._good_scores))
            vectors = embeddings(features, center, whitening, scores, good_scores)
        return [
            Outcome(score, np.ascontiguousarray(pixels), vector)
            for score, pixels, vector in zip(
                scores.tolist(), maps[:, 0].cpu().numpy(), vectors.cpu().numpy(), strict=True
            )
        ]

    def look(self, inputs: Sequence[Tensor]) -> list[Look]:
        outcomes = self.inspect(inputs)
        with torch.inference_mode():
            answers = self._network.teacher(torch.stack(list(inputs)).to(self._device))  # (B, 384, R, R)
            center = self._network.center.to(self._device)
            deviations = ((answers.permute(0, 2, 3, 1) - center) @ self._whitening).cpu()
            maps = torch.stack([torch.from_numpy(outcome.anomaly_map) for outcome in outcomes])
            anomaly = _patches(maps[:, None])
        return [
            Look(*told, self._network.spread.cpu(), self._good_scores.cpu(), _PAD)
            for told in zip(outcomes, deviations, anomaly, strict=True)
        ]

    def pooled(self, images: Tensor, taught: Tensor) -> Tensor:
        """The pooled features (B, 384) of prepared images (B, 3, S, S).

        ``taught`` is the teacher's standardised answer to them, (B, 384, R, R).
        """
        return self._network.judged(images, taught)[1]

    def measure_maps(self, quantiles: Mapping[str, Tensor], spread: Tensor) -> None:
        """Take how the maps of good images new to the student lie.

        Args:
            quantiles: qa_st, qb_st, qa_ae, qb_ae, the 90 % and 99.5 % quantiles of each map.
            spread: what patches are pooled by, see ``temperature``.
        """
        for name, value in quantiles.items():
            self.model.quantiles[name].data.copy_(value)
        self._network.spread.copy_(spread)

    def measure_center(self, center: Tensor) -> None:
        """Take the mean of the pooled features of good images, (384,), off every embedding."""
        self._network.center.copy_(center)

    def measure_directions(self, features: Tensor) -> None:
        """Take what features (N, 384) of good images vary in as what tells no images apart."""
        with torch.inference_mode():
            self._whitening = whitening(features).to(self._device)

    def measure_scores(self, scores: Sequence[float]) -> None:
        """Take scores of good images new to the student as the unit of scores in embeddings."""
        self._good_scores = score_unit(torch.tensor(scores)).to(self._device)

    def _on_device(self) -> "EfficientAd":
        self._network.to(self._device)
        self._good_scores = self._good_scores.to(self._device)
        self._whitening = self._whitening.to(self._device)
        return self


class _Judgement(nn.Module):
    """Images (B, 3, S, S) of 0 to 1 to anomaly maps (B, 1, S, S) and pooled features (B, 384)."""

    center: Tensor
    spread: Tensor

    def __init__(self, model: "EfficientAdModel") -> None:
        super().__init__()
        self.model = model
        self.register_buffer("center", torch.zeros(CHANNELS))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As anomalib's ``EfficientAdModel.forward`` judges; the teacher's answers are pooled beside it."""
        return self.judged(images, self.teacher(images))

    def judged(self, images: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images to which the teacher's answer, (B, 384, R, R), is known."""
        model = self.model
        student = model.student(images)
        distance = torch.pow(teacher - student[:, :CHANNELS], 2)
        map_st, map_stae = model.compute_maps(images, student, distance)
        maps = 0.5 * map_st + 0.5 * map_stae
        patches = _patches(maps)
        count = patches.shape[1] * patches.shape[2]
        # Views of -1 images: to flatten would write the size of the batch into an export.
        features = teacher.view(-1, CHANNELS, count).transpose(1, 2)  # (B, R * R, 384)
        return maps, pooled(features, patches.contiguous().view(-1, count), self.spread)

    def teacher(self, images: Tensor) -> Tensor:
        """The teacher's features (B, 384, R, R), each channel in units of good images."""
        mean, std = self.model.mean_std["mean"], self.model.mean_std["std"]
        answers: Tensor = (self.model.teacher(images) - mean) / std
        return answers


def _patches(maps: Tensor) -> Tensor:
    """The anomaly (B, R, R) of the patches that the teacher answers for, from maps (B, 1, S, S)."""
    return functional.avg_pool2d(maps, _STRIDE)[:, 0, _PAD:-_PAD, _PAD:-_PAD]
