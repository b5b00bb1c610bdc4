# SPDX-License-Identifier: Apache-2.0
"""Versions in stores: detectors of older builds, whose scores must never change.

Settings and names of tensors are those that commit 8d3c780 stored. The expected values are what that commit
returned for the same tensors and image.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blemish_core.detectors.base import Detector, Image
from blemish_core.detectors.efficientad.detector import EfficientAd
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore

PATCHCORE = {"backbone": "efficientnet_lite0", "input_size": 64, "coreset_ratio": 0.1, "neighbors": 9}
ENTRIES = 50
# Score, highest and mean pixel, and dimensions 0, 7 and -1 of the embedding.
WHITENED = [38.19499, 41.24109, 29.25524, 0.1009985, 0.022043, 0.4472136]
PAPER = [55.96238, 62.03718, 50.3382, 0.06825761, 0.08300579, 0.4472136]
EFFICIENTAD = [0.5082606, 0.5082606, 0.2717223, 0.05100293, 0.02468232, 0.3190008]


def wave(*shape: int, step: float, size: float = 1.0) -> Tensor:
    """Return numbers from -size to size that every machine computes alike."""
    count = int(np.prod(shape))
    return torch.from_numpy((size * np.sin(step * np.arange(count))).astype(np.float32)).reshape(shape)


def picture() -> Image:
    """Return stripes with a dark spot, 120 x 96 px."""
    rows, columns = np.mgrid[0:96, 0:120]
    grey = 128 + 60 * np.sin(columns / 5) + 20 * np.sin(rows / 7)
    grey[30:50, 60:80] *= 0.3
    return np.stack([grey, 0.9 * grey, 0.8 * grey], axis=2).astype(np.uint8)


def patchcore(weights: Path, settings: Mapping[str, Any], dimensions: int) -> Detector:
    """Return a detector with the backbone's weights and a memory bank of a formula."""
    plain = TrainablePatchCore(PatchCoreSettings(**settings))
    plain.load_pretrained(weights)
    bank = wave(ENTRIES, dimensions, step=0.37, size=0.8)
    tensors = {name: tensor for name, tensor in plain.tensors().items() if "." in name} | {
        "memory_bank": bank,
        "supports": torch.cdist(bank, bank).topk(9, largest=False).indices,
        "center": wave(dimensions, step=0.21, size=0.1),
        "whitening": torch.eye(dimensions) + wave(dimensions, dimensions, step=0.011, size=0.02),
        "spread": torch.tensor(0.7),
        "score_scale": torch.tensor([3.0, 0.5]),
    }
    if settings["whitened"]:
        tensors |= {
            "feature_whitening": 0.5 * torch.eye(dimensions)
            + wave(dimensions, dimensions, step=0.013, size=0.02),
            "feature_shift": wave(dimensions, step=0.17, size=0.2),
            "usual_distances": 1.5 + wave(64, step=0.7, size=0.3),
        }
    return TrainablePatchCore.load(settings, tensors)


def efficientad() -> Detector:
    """Return a detector with an autoencoder and weights of a formula."""
    settings = {"size": "small", "input_size": 256, "max_steps": 70_000, "max_seconds": 18.0, "start": ""}
    shapes = EfficientAd(EfficientAdSettings()).tensors()
    tensors: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(sorted(shapes.items())):
        inputs = max(1, int(np.prod(tensor.shape[1:])))
        values = wave(*tensor.shape, step=0.3 + number / 100, size=2 / inputs**0.5)
        tensors[name] = values.abs() + 0.5 if name.endswith(("std", "spread")) else values
    quantiles = {"qa_st": 0.1, "qb_st": 2.0, "qa_ae": 0.1, "qb_ae": 3.0}
    tensors |= {f"model.quantiles.{name}": torch.tensor(value) for name, value in quantiles.items()}
    return EfficientAd.load(settings, tensors | {"score_scale": torch.tensor([0.1, 0.5])})


def results(detector: Detector) -> list[float]:
    """Return what the constants above hold for the picture."""
    (prediction,) = detector.predict([detector.prepare(picture())])
    pixels = prediction.anomaly_map
    embedding = prediction.embedding
    return [prediction.score, float(pixels.max()), float(pixels.mean()), *embedding[[0, 7, -1]].tolist()]


def test_whitened_patchcore_scores_as_when_it_was_stored(tmp_path: Path) -> None:
    detector = patchcore(tmp_path, PATCHCORE | {"whitened": True, "fine": True}, 200)
    assert results(detector) == pytest.approx(WHITENED, rel=1e-4)


def test_patchcore_of_the_paper_scores_as_when_it_was_stored(tmp_path: Path) -> None:
    detector = patchcore(tmp_path, PATCHCORE | {"whitened": False, "fine": False}, 152)
    assert results(detector) == pytest.approx(PAPER, rel=1e-4)


def test_efficientad_with_autoencoder_scores_as_when_it_was_stored() -> None:
    assert results(efficientad()) == pytest.approx(EFFICIENTAD, rel=1e-4)
