# SPDX-License-Identifier: Apache-2.0
"""Whether a runtime answers as torch does, on images of the surface and on spoilt ones."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blemish_core.detectors.base import Detector, Prediction, Runtime, running_on
from blemish_core.platform.errors import RuntimesDisagree
from blemish_core.runtimes.card import Parity

# Float32 rounding makes up to 1e-5, and 1e-4 where all training images are black, so that PatchCore's
# distances are what cancellation leaves. bf16 is off by 4e-2 to 9e-2.
TOLERANCE = 1e-3
GOLDEN_IMAGES = 8
_BATCHES = (1, 3)  # then all that is left: a network must not know the size of its batch


def golden_images(prepared: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return ``prepared`` (3, S, S) and each of them spoilt, by noise or by a patch of noise.

    Good images alone would leave out the scores that matter most.
    """
    random = torch.Generator().manual_seed(seed)
    spoilt: list[Tensor] = []
    for number, image in enumerate(prepared):
        noisy = 0.8 * image + 0.2 * _noise(image, random)
        spoilt.append(noisy if number % 2 else with_patch(image, random))
    return [*prepared, *spoilt]


def with_patch(image: Tensor, random: torch.Generator) -> Tensor:
    """Return ``image`` (3, S, S) with a patch of noise in it, a quarter of a side wide."""
    wide = image.shape[-1] // 4
    top, left = torch.randint(0, image.shape[-1] - wide, (2,), generator=random).tolist()
    patch = (slice(None), slice(top, top + wide), slice(left, left + wide))
    spoilt = image.clone()
    spoilt[patch] = _noise(image, random)[patch]
    return spoilt


def compare(
    detector: Detector, runtime: Runtime, golden: Sequence[Tensor], *, tolerance: float | None
) -> Parity:
    """Measure how far ``runtime`` is from the detector's own, which stays in place.

    What is held to a ``tolerance`` hangs on no luck: a patch half way between two inverted lists finds an
    entry of the one or of the other by rounding alone, which failed a training now and then.
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
    outcomes: list[Prediction] = []
    with running_on(detector, runtime):
        for size in (*_BATCHES, len(golden)):
            if batch := golden[len(outcomes) : len(outcomes) + size]:
                outcomes += detector.predict(batch)
    lowest = min(float(outcome.anomaly_map.min()) for outcome in reference)
    highest = max(float(outcome.anomaly_map.max()) for outcome in reference)
    scale = max(highest - lowest, float(np.finfo(np.float32).tiny))
    pairs = list(zip(reference, outcomes, strict=True))
    return Parity(
        images=len(golden),
        score=_worst([abs(its.score - ours.score) / scale for ours, its in pairs]),
        anomaly_map=_worst(
            [float(np.abs(its.anomaly_map - ours.anomaly_map).max()) / scale for ours, its in pairs]
        ),
        embedding=_worst([float(np.linalg.norm(its.embedding - ours.embedding)) for ours, its in pairs]),
        tolerance=tolerance,
    )


def check(parity: Parity, runtime: str) -> None:
    """Refuse a runtime that is too far from torch.

    Raises:
        RuntimesDisagree: naming what differs, and by how much.
    """
    assert parity.tolerance is not None
    for what, difference, unit in (
        ("image scores", parity.score, "of the anomaly maps' range"),
        ("anomaly maps", parity.anomaly_map, "of their range"),
        ("embeddings", parity.embedding, "of their length"),
    ):
        if not difference <= parity.tolerance:  # also where it is no number
            raise RuntimesDisagree(
                f"{runtime} gives other {what} than torch: they differ by {difference:.2g} {unit} on "
                f"{parity.images} golden images, and {parity.tolerance:.2g} is allowed. Nothing was "
                "published. Train again with the versions in constraints.txt, or publish for torch alone "
                "with BLEMISH_RUNTIME=torch in the worker's environment"
            )


def _noise(image: Tensor, random: torch.Generator) -> Tensor:
    low, high = image.min(), image.max()
    return low + (high - low) * torch.rand(image.shape, generator=random)


def _worst(differences: Sequence[float]) -> float:
    return float(np.max(differences))  # NaN if one is, where max() may not
