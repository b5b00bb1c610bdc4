# SPDX-License-Identifier: Apache-2.0
"""Parity check: a runtime must give the same predictions as torch on good and on corrupted images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blemish_core.detectors.base import Detector, Prediction, Runtime, running_on
from blemish_core.platform.errors import RuntimesDisagree
from blemish_core.runtimes.card import Parity

TOLERANCE = 1e-3
"""Largest difference allowed: far above float32 rounding, far below the error of bf16."""
GOLDEN_IMAGES = 8
_CHANNELS = 3
_BATCHES = (1, 3)  # then all others at once: the batch size must not matter


def golden_images(prepared: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return prepared images, and copies corrupted by noise or by a patch of noise.

    Good images alone would not test high scores. The mask of an image stays as it is.
    """
    random = torch.Generator().manual_seed(seed)
    corrupted: list[Tensor] = []
    for number, image in enumerate(prepared):
        pixels, mask = image[:_CHANNELS], image[_CHANNELS:]
        noisy = 0.8 * pixels + 0.2 * _noise(pixels, random)
        corrupted.append(torch.cat([noisy if number % 2 else with_patch(pixels, random), mask]))
    return [*prepared, *corrupted]


def with_patch(image: Tensor, random: torch.Generator) -> Tensor:
    """Return ``image`` (3, h, w) with a patch of noise, a quarter of the shorter side wide."""
    height, width = image.shape[-2:]
    side = min(height, width) // 4
    down, across = torch.rand(2, generator=random).tolist()
    top, left = int(down * (height - side)), int(across * (width - side))
    patch = (slice(None), slice(top, top + side), slice(left, left + side))
    corrupted = image.clone()
    corrupted[patch] = _noise(image, random)[patch]
    return corrupted


def compare(
    detector: Detector, runtime: Runtime, golden: Sequence[Tensor], *, tolerance: float | None
) -> Parity:
    """Compare ``runtime`` with the detector's present runtime, which stays in use.

    If the ``tolerance`` is exceeded, the comparison is repeated with exact search. With inverted lists,
    rounding alone can change the lists that a patch searches.
    """
    parity = _compared(detector, runtime, golden, tolerance)
    if tolerance is None or parity.worst <= tolerance:
        return parity
    with detector.exact_search():
        return _compared(detector, runtime, golden, tolerance)


def _compared(
    detector: Detector, runtime: Runtime, golden: Sequence[Tensor], tolerance: float | None
) -> Parity:
    reference = detector.predict(golden)
    with running_on(detector, runtime):
        predictions = _predict_in_batches(detector, golden)
    return _differences(reference, predictions, tolerance)


def compare_detectors(reference: Detector, other: Detector, golden: Sequence[Tensor]) -> Parity:
    """Compare a detector with tensors of its own, for another runtime, with the reference."""
    return _differences(reference.predict(golden), _predict_in_batches(other, golden), tolerance=None)


def _predict_in_batches(detector: Detector, golden: Sequence[Tensor]) -> list[Prediction]:
    """Return the predictions of golden images in batches of several sizes."""
    predictions: list[Prediction] = []
    for size in (*_BATCHES, len(golden)):
        if batch := golden[len(predictions) : len(predictions) + size]:
            predictions += detector.predict(batch)
    return predictions


def _differences(
    reference: Sequence[Prediction], predictions: Sequence[Prediction], tolerance: float | None
) -> Parity:
    lowest = min(float(prediction.anomaly_map.min()) for prediction in reference)
    highest = max(float(prediction.anomaly_map.max()) for prediction in reference)
    scale = max(highest - lowest, float(np.finfo(np.float32).tiny))
    pairs = list(zip(reference, predictions, strict=True))
    return Parity(
        images=len(reference),
        score=_worst([abs(its.score - ours.score) / scale for ours, its in pairs]),
        anomaly_map=_worst(
            [float(np.abs(its.anomaly_map - ours.anomaly_map).max()) / scale for ours, its in pairs]
        ),
        embedding=_worst([float(np.linalg.norm(its.embedding - ours.embedding)) for ours, its in pairs]),
        tolerance=tolerance,
    )


def check(parity: Parity, runtime: str) -> None:
    """Reject a runtime that differs from torch by more than the tolerance.

    Raises:
        RuntimesDisagree: with the difference.
    """
    assert parity.tolerance is not None
    for name, difference, unit in (
        ("image scores", parity.score, "of the anomaly maps' range"),
        ("anomaly maps", parity.anomaly_map, "of their range"),
        ("embeddings", parity.embedding, "of their length"),
    ):
        if not difference <= parity.tolerance:  # also true for NaN
            raise RuntimesDisagree(
                f"the {name} of {runtime} differ from torch's by {difference:.2g} {unit} on "
                f"{parity.images} golden images, more than {parity.tolerance:.2g}. Nothing was published; "
                "train again with the versions in constraints.txt, or set BLEMISH_RUNTIME=torch for the "
                "worker"
            )


def _noise(image: Tensor, random: torch.Generator) -> Tensor:
    low, high = image.min(), image.max()
    return low + (high - low) * torch.rand(image.shape, generator=random)


def _worst(differences: Sequence[float]) -> float:
    return float(np.max(differences))  # unlike max(), NaN if any is
