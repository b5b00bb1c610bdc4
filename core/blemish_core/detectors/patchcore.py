# SPDX-License-Identifier: Apache-2.0
"""PatchCore (Roth et al., CVPR 2022, arXiv:2106.08265) on anomalib's model.

Normality is a memory bank of patch features; a patch is as anomalous as it is far from the bank, an image
as anomalous as its farthest patch, weighed by how dense the bank is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor
from torch.nn import functional

from blemish_core.calibration import images_needed
from blemish_core.detectors import backbone as backbones
from blemish_core.detectors.backbone import Backbone
from blemish_core.detectors.coreset import greedy_coreset
from blemish_core.detectors.detector import Held, Image, Outcome, Progress, ReadImage, Training
from blemish_core.errors import InvalidRequest, NotPossibleYet, TooLarge
from blemish_core.preprocessing import Preprocessing

NAME = "patchcore"
MIN_IMAGES = 2  # one to learn, one to hold out
_HELD_OUT = 0.2
_CROSS_BELOW = 20  # fewer images than this are too few to spare any for calibration alone
_FOLDS = 5
_BATCH = 8


@dataclass(frozen=True)
class PatchCoreSettings:
    backbone: str = backbones.DEFAULT
    input_size: int = 256
    """Side of the square input, px."""
    coreset_ratio: float = 0.1
    """Share of the patches kept in the memory bank."""
    neighbors: int = 9
    """Bank entries around the nearest one that weigh the image score (b in the paper's equation 7)."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidRequest: naming the setting and its range.
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


class PatchCore:
    """A memory bank and the backbone whose features it holds."""

    name = NAME

    def __init__(
        self, settings: PatchCoreSettings, backbone: Backbone, device: str | torch.device = "cpu"
    ) -> None:
        self._settings = settings
        self._backbone = backbone
        self._device = torch.device(device)
        self._model = PatchcoreModel(
            backbone=backbone.timm_name,
            layers=list(backbone.layers),
            pre_trained=False,
            num_neighbors=settings.neighbors,
        ).eval()
        self._preprocess = Preprocessing(settings.input_size, backbone.mean, backbone.std)
        # Of the bank, for embeddings; set with it.
        self._center = torch.empty(0)
        self._spread = torch.ones(())

    @property
    def input_size(self) -> int:
        return self._settings.input_size

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self._settings)

    def tensors(self) -> dict[str, Tensor]:
        tensors = self._model.state_dict() | {"center": self._center, "spread": self._spread}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def load(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
    ) -> "PatchCore":
        """Rebuild the detector that gave ``settings`` and ``tensors``."""
        checked = PatchCoreSettings(**settings)
        detector = cls(checked, Backbone.named(checked.backbone), device)
        weights = dict(tensors)
        detector._center, detector._spread = weights.pop("center"), weights.pop("spread")
        detector._model.load_state_dict(weights)
        return detector._on_device()

    def prepare(self, image: Image) -> Tensor:
        return self._preprocess(image)

    def inspect(self, inputs: Sequence[Tensor]) -> list[Outcome]:
        with torch.inference_mode():
            features, grid = self._features(inputs)
            return self._outcomes(features, grid)

    def _features(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """Patch features (B, P, D) and the grid (rows, columns) of the P patches."""
        batch = torch.stack(list(inputs)).to(self._device)
        maps = self._model.feature_extractor(batch)
        pooled = {name: self._model.feature_pooler(features) for name, features in maps.items()}
        embedding = self._model.generate_embedding(pooled)  # (B, D, rows, columns)
        rows, columns = embedding.shape[-2:]
        features = self._model.reshape_embedding(embedding)
        return features.reshape(len(inputs), rows * columns, -1), (rows, columns)

    def _outcomes(self, features: Tensor, grid: tuple[int, int]) -> list[Outcome]:
        """Score features (B, P, D) as anomalib's ``PatchcoreModel.forward`` does, and embed them."""
        batch = len(features)
        patches = features.flatten(0, 1)
        distances, nearest = self._model.nearest_neighbors(patches, n_neighbors=1)
        distances, nearest = distances.reshape(batch, -1), nearest.reshape(batch, -1)  # (B, P)
        scores = self._model.compute_anomaly_score(distances, nearest, patches)
        side = self._settings.input_size
        maps = self._model.anomaly_map_generator(distances.reshape(batch, 1, *grid), (side, side))
        embeddings = self._embeddings(features, distances)
        return [
            Outcome(score, np.ascontiguousarray(pixels), embedding)
            for score, pixels, embedding in zip(
                scores.tolist(), maps[:, 0].cpu().numpy(), embeddings.cpu().numpy(), strict=True
            )
        ]

    def _embeddings(self, features: Tensor, distances: Tensor) -> Tensor:
        """Pool features (B, P, D) where they are anomalous: (B, D), of length 1.

        A plain mean drowns a small defect in good surface. The weights are a softmax over distances
        (B, P) to the bank, in units of how good images spread; the bank's mean is taken off, since what
        all images share tells none apart.
        """
        weights = functional.softmax(distances / self._spread, dim=1)
        pooled = (weights[..., None] * features).sum(1) - self._center
        return functional.normalize(pooled, dim=1)

    def _remember(self, bank: Tensor) -> None:
        """Take ``bank`` (M, D) as what is normal."""
        self._model.memory_bank = bank.contiguous()
        self._center = bank.mean(0)
        self._on_device()

    def _on_device(self) -> "PatchCore":
        self._model.to(self._device)
        self._center, self._spread = self._center.to(self._device), self._spread.to(self._device)
        return self


def train(
    settings: PatchCoreSettings,
    images: Sequence[ReadImage],
    *,
    weights: Path,
    seed: int,
    target_false_reject_rate: float,
    progress: Progress,
    device: str | torch.device = "cpu",
    max_feature_bytes: int = 4 << 30,
) -> Training:
    """Learn from good images, of which some are held out to calibrate by.

    With 20 images or more, a fifth or as many as the target false-reject rate needs (at most a third) are
    held out. With fewer each is scored by a detector that learned from the others (cross-calibration), and
    the one that is kept learned from all.

    Raises:
        NotPossibleYet: with fewer than 2 images, or if the backbone's weights cannot be had.
        TooLarge: if the features would need more than ``max_feature_bytes``.
    """
    if len(images) < MIN_IMAGES:
        raise NotPossibleYet(
            f"PatchCore learns from at least {MIN_IMAGES} good images, but the dataset has "
            f"{len(images)} in train/good; upload more"
        )
    backbone = Backbone.named(settings.backbone)
    detector = PatchCore(settings, backbone, device)
    _load_backbone(detector, backbones.pretrained(backbone, weights))
    features, grid = _all_features(detector, images, max_feature_bytes, progress)  # (N, P, D)

    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    if len(images) < _CROSS_BELOW:
        method = "cross-calibration"
        folds = np.array_split(order, min(len(images), _FOLDS))
        learned = order
    else:
        method = "held out"
        needed = max(ceil(_HELD_OUT * len(images)), images_needed(target_false_reject_rate))
        held_out, learned = np.split(order, [min(needed, len(images) // 3)])
        folds = [held_out]

    outcomes: list[Outcome] = []
    for number, fold in enumerate(folds):
        rest = np.setdiff1d(order, fold)
        suffix = f" {number + 1} of {len(folds)}" if method == "cross-calibration" else ""
        detector._remember(_coreset(settings, features[rest], random, progress, f"coreset{suffix}"))
        outcomes += _held_outcomes(detector, features[fold], grid, progress, f"calibration{suffix}")
    if method == "cross-calibration":
        detector._remember(_coreset(settings, features, random, progress, "coreset"))
    held = Held(
        tuple(outcome.score for outcome in outcomes),
        tuple(float(outcome.anomaly_map.max()) for outcome in outcomes),
    )
    return Training(detector, held, learned=len(learned), method=method)


def _load_backbone(detector: PatchCore, weights: Mapping[str, Tensor]) -> None:
    extractor = detector._model.feature_extractor.feature_extractor
    # The extractor stops at the last stage that is needed; later weights have no place in it.
    missing, _ = extractor.load_state_dict(weights, strict=False)
    if missing:
        raise RuntimeError(f"no weights for {missing[:3]} of {detector._backbone.name}; this is a bug")


def _all_features(
    detector: PatchCore, images: Sequence[ReadImage], max_bytes: int, progress: Progress
) -> tuple[Tensor, tuple[int, int]]:
    """Features (N, P, D) of all images, on the CPU, and the grid of their P patches."""
    parts: list[Tensor] = []
    grid = (0, 0)
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            progress("features", start, len(images), "images")
            batch = [detector.prepare(read()) for read in images[start : start + _BATCH]]
            features, grid = detector._features(batch)
            needed = features[0].numel() * features.element_size() * len(images)
            if needed > max_bytes:
                raise TooLarge(
                    f"the features of {len(images)} images need {needed >> 20} MiB, but "
                    f"BLEMISH_MAX_FEATURE_BYTES allows {max_bytes >> 20} MiB; train on fewer images, "
                    "take a smaller input_size, or raise the setting"
                )
            parts.append(features.cpu())
    progress("features", len(images), len(images), "images")
    return torch.cat(parts), grid


def _coreset(
    settings: PatchCoreSettings,
    features: Tensor,
    random: np.random.Generator,
    progress: Progress,
    phase: str,
) -> Tensor:
    """The memory bank (M, D) of features (N, P, D)."""
    patches = features.flatten(0, 1)
    keep = max(1, int(len(patches) * settings.coreset_ratio))
    progress(phase, 0, keep, "patches")
    with torch.inference_mode():
        picks = greedy_coreset(
            patches,
            keep,
            first=int(random.integers(len(patches))),
            on_picks=lambda picked: progress(phase, picked, keep, "patches"),
        )
        return patches[picks]


def _held_outcomes(
    detector: PatchCore,
    features: Tensor,
    grid: tuple[int, int],
    progress: Progress,
    phase: str,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    spreads: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(features), _BATCH):
            batch = features[start : start + _BATCH].to(detector._device)
            distances, _ = detector._model.nearest_neighbors(batch.flatten(0, 1), n_neighbors=1)
            spreads.append(distances)
            outcomes += detector._outcomes(batch, grid)
            progress(phase, start + len(batch), len(features), "images")
        detector._spread = torch.cat(spreads).std()
    return outcomes
