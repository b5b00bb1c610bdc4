# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022, arXiv:2106.08265) on anomalib's model.

Normality is a memory bank of patch features; a patch is as anomalous as it is far from the bank, an image
as anomalous as its farthest patch, weighed by how dense the bank is there.

Beyond the paper, unless the settings say otherwise, features are of three stages, not two, so that what is
a few pixels wide is seen. They are whitened by what good patches vary in, and weighed by what altered spots
change: plain distances are ruled by the few directions that vary most, light and grain, see ``whitening``.
And a distance is relative to what is usual at its place of the image, see ``places``. Scores are then those
of anomalib's model on such features with such distances, and without it those of anomalib's model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import Image, PatchFeatures, Prediction, Runtime
from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.anomaly_map import BLUR, anomaly_map
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.common.embedding import (
    TEMPERATURE,
    embeddings,
    pooled,
    score_scale,
    taken_scale,
    temperature,
    whitening,
)
from blemish_core.detectors.patchcore.memory_bank import MemoryBank, Nearest
from blemish_core.detectors.patchcore.network import PatchCoreNetwork
from blemish_core.detectors.patchcore.position_norm import expected_distances
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.platform.errors import InvalidRequest
from blemish_core.runtimes.torch_runtime import TorchRuntime

NAME = "patchcore"

# Distances of whitened features spread less: see ``embedding.TEMPERATURE``.
_WHITENED_TEMPERATURE = 0.5


@dataclass(frozen=True)
class PatchCoreSettings:
    backbone: str = backbones.DEFAULT
    input_size: int = 256
    """Side of the square input, px."""
    coreset_ratio: float = 0.1
    """Share of the patches kept in the memory bank."""
    neighbors: int = 9
    """Bank entries around the nearest one that weigh the image score (b in the paper's equation 7)."""
    whitened: bool = True
    """Whether features are whitened and distances relative to what is usual at a place: not the paper."""
    fine: bool | None = None
    """Whether features are of the stage of stride 4, too: not the paper; as ``whitened`` if None."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: naming the setting and its range, or a backbone that timm has not.
        """
        for field, value, low, high in (
            ("input_size", self.input_size, 64, 1024),
            ("neighbors", self.neighbors, 1, 50),
        ):
            if not low <= value <= high:
                raise InvalidRequest(
                    f"{field} is {value}, but must be {low} to {high}", field=f"patchcore.{field}"
                )
        if not 0 < self.coreset_ratio <= 1:
            raise InvalidRequest(
                f"coreset_ratio is {self.coreset_ratio}, but must be above 0 and at most 1",
                field="patchcore.coreset_ratio",
            )
        self.extractor()

    def extractor(self) -> Backbone:
        """What extracts features."""
        return Backbone.named(self.backbone, fine=self.whitened if self.fine is None else self.fine)


class PatchCore:
    """A memory bank and the backbone whose features it holds."""

    name = NAME

    def __init__(self, settings: PatchCoreSettings, device: str | torch.device = "cpu") -> None:
        self._settings = settings
        self._backbone = settings.extractor()
        self._device = torch.device(device)
        self._torch = PatchCoreNetwork(self._backbone, settings.neighbors, self._device)
        self._runtime: Runtime | None = None
        self._bank = MemoryBank(torch.empty(0, 0))
        self._usual: Tensor | None = None  # (P,), what distances are relative to
        self._preprocess = Preprocessing(settings.input_size, self._backbone.mean, self._backbone.std)
        # What embeddings are measured by: the bank's mean, what good patches vary in, and how good images
        # new to the bank lie and score.
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
    def runtime(self) -> Runtime:
        if self._runtime is None:
            self._runtime = TorchRuntime(self.network, self._device)
        return self._runtime

    @property
    def bytes(self) -> int:
        runtime = self._runtime.bytes if self._runtime is not None else 0
        return self._torch.bytes + self._bank.bytes + runtime

    @property
    def preprocessing(self) -> Preprocessing:
        return self._preprocess

    def run_on(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def exhaustively(self) -> AbstractContextManager[None]:
        return self._bank.exhaustively()

    def release_weights(self) -> None:
        self._torch.release()

    def tensors(self) -> dict[str, Tensor]:
        tensors = self._torch.model.state_dict() | {
            "center": self._center,
            "whitening": self._whitening,
            "spread": self._spread,
            "score_scale": self._score_scale,
        }
        if (layer := self._torch.staged.own) is not None:
            assert layer.bias is not None
            tensors |= {"feature_whitening": layer.weight[:, :, 0, 0], "feature_shift": layer.bias}
        if self._usual is not None:
            tensors["usual_distances"] = self._usual  # a name in stored bundles
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
    ) -> "PatchCore":
        """Rebuild the detector that gave ``settings`` and ``tensors``."""
        # Versions from before there was a choice are plain, and of two stages.
        checked = PatchCoreSettings(**({"whitened": False, "fine": False} | dict(settings)))
        detector = cls(checked, device)
        weights = dict(tensors)
        detector._center, detector._spread = weights.pop("center"), weights.pop("spread")
        detector._score_scale = taken_scale(weights)
        # Versions from before it had plain directions, and so has what was indexed of them.
        detector._whitening = weights.pop("whitening", torch.eye(len(detector._center)))
        # Versions from before it have distances that are relative to nothing.
        detector._usual = weights.pop("usual_distances", None)
        centroids, supports = weights.pop("index_centroids", None), weights.pop("supports", None)
        mapping = None
        if (matrix := weights.pop("feature_whitening", None)) is not None:
            mapping = matrix, weights.pop("feature_shift")
        entries = weights.pop("memory_bank")
        detector._torch = PatchCoreNetwork(
            detector._backbone, checked.neighbors, detector._device, weights, mapping
        )
        detector._search(entries, centroids, supports)
        return detector._on_device()

    def prepare(self, image: Image) -> Tensor:
        return self._preprocess(image)

    def inspect(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        with torch.inference_mode():
            patches, grid = self.features(inputs)
            return self.outcomes(patches, grid)

    def look(self, inputs: Sequence[Tensor]) -> list[PatchFeatures]:
        with torch.inference_mode():
            features, grid = self.features(inputs)
            features = features.to(self._device).contiguous()
            found = self._judged(features, grid)
            deviations = ((features - self._center) @ self._whitening).cpu()
        return [
            PatchFeatures(
                outcome,
                patches.reshape(*grid, -1),
                distances.reshape(grid).cpu(),
                self._spread.cpu(),
                self._score_scale.cpu(),
                margin=0,
            )
            for (outcome, distances), patches in zip(found, deviations, strict=True)
        ]

    def features(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """Patch features (B, P, D) and the grid (rows, columns) of the P patches."""
        # One, as on a CPU, need not be copied.
        batch = inputs[0][None] if len(inputs) == 1 else torch.stack(list(inputs))
        (maps,) = self.runtime(batch)  # (B, D, rows, columns)
        rows, columns = maps.shape[-2:]
        return maps.flatten(2).transpose(1, 2), (rows, columns)

    def outcomes(self, features: Tensor, grid: tuple[int, int]) -> list[Prediction]:
        """Score features (B, P, D) as anomalib's ``PatchcoreModel.forward`` does, and embed them."""
        return [outcome for outcome, _ in self._judged(features.to(self._device).contiguous(), grid)]

    def _judged(self, features: Tensor, grid: tuple[int, int]) -> list[tuple[Prediction, Tensor]]:
        """Outcomes, and the distances (P,) of the patches that they are made from."""
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
        outcomes = [
            Prediction(score, pixels.cpu().numpy(), vector)
            for score, pixels, vector in zip(scores.tolist(), maps, vectors.cpu().numpy(), strict=True)
        ]
        return list(zip(outcomes, distances, strict=True))

    def _nearest(self, patches: Tensor, grid: tuple[int, int] | None = None) -> Nearest:
        return self._bank.nearest(patches, grid, self._usual)

    def load_pretrained(self, weights: Path) -> None:
        """Take the backbone's ImageNet weights; ``weights`` is the store's folder of imported ones.

        Raises:
            FailedPrecondition: if they are not installed; the message names the command that imports them.
            Corrupt: if the imported file cannot be read.
        """
        self._torch.load_backbone(backbones.pretrained(self._backbone, weights))

    def whiten(self, matrix: Tensor, shift: Tensor, levelling: Tensor) -> None:
        """Have features (P, D) be what they were times a symmetric (D, D), plus ``shift`` (D,).

        Embeddings are of features times ``levelling`` (D, D).
        """
        self._torch.map(matrix, shift)
        self._whitening = levelling.to(self._device)

    def remember(self, entries: Tensor) -> None:
        """Take ``entries`` (M, D) as what is normal."""
        self._center = entries.mean(0)
        if not self._whitening.numel():
            self._whitening = torch.eye(len(self._center))
        self._usual = None
        self._search(entries)
        self._on_device()

    def find_supports(self, on_entries: Callable[[int], None] = lambda done: None) -> None:
        """Find out now, not in every frame, how dense the bank is around each of its entries."""
        if self._settings.neighbors > 1:
            with torch.inference_mode():
                self._bank.find_supports(self._settings.neighbors, on_entries)

    def _search(
        self, entries: Tensor, centroids: Tensor | None = None, supports: Tensor | None = None
    ) -> None:
        supports = supports.to(self._device) if supports is not None else None
        self._bank = MemoryBank(entries.to(self._device), centroids, supports)
        self._torch.remember(self._bank.entries)  # the same: held once

    def measure_spread(self, features: Tensor) -> None:
        """Take how far features (B, P, D) of good images lie from the bank as the unit of distance."""
        with torch.inference_mode():
            distances = [self._nearest(patches).distances for patches in features.to(self._device)]
        share = _WHITENED_TEMPERATURE if self._settings.whitened else TEMPERATURE
        self._spread = temperature(torch.cat(distances), share)

    def measure_places(
        self,
        features: Tensor,
        grid: tuple[int, int],
        images: Sequence[int],
        owners: Tensor,
        on_images: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Take how far features (N, P, D) of good ``images`` lie from the bank as what is usual at a place.

        ``owners`` (M,) says of each entry of the bank which image it is of: an image is measured by the
        entries of the others. ``on_images`` hears how many are done.
        """
        owners = owners.to(self._device)
        found = []
        with torch.inference_mode():
            for done, image in enumerate(images):
                on_images(done)
                barred = owners == image
                if not barred.all():
                    patches = features[image].to(self._device)
                    found.append(self._bank.distances_to_others(patches, barred))
        on_images(len(images))
        distances = torch.stack(found) if found else features.new_empty(0, features.shape[1])
        self._usual = expected_distances(distances, grid).to(self._device)

    def measure_directions(self, features: Tensor) -> None:
        """Take what the features (B, P, D) of good images vary in as what tells no images apart."""
        with torch.inference_mode():
            self._whitening = whitening(features.flatten(0, 1)).to(self._device)

    def measure_scores(self, scores: Sequence[float]) -> None:
        """Take ``scores`` of good images new to the bank, two or more, as the unit of scores."""
        self._score_scale = score_scale(torch.tensor(scores)).to(self._device)

    def _on_device(self) -> "PatchCore":
        self._center, self._spread = self._center.to(self._device), self._spread.to(self._device)
        self._whitening = self._whitening.to(self._device)
        self._score_scale = self._score_scale.to(self._device)
        if self._usual is not None:
            self._usual = self._usual.to(self._device)
        return self
