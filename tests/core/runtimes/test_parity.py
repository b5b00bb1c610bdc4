# SPDX-License-Identifier: Apache-2.0

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.patches import patch_features
from torch import Tensor

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.platform.errors import RuntimesDisagree
from blemish_core.runtimes import parity
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime


def inputs(count: int, seed: int) -> list[Tensor]:
    return list(torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))


def prepared() -> list[Tensor]:
    return inputs(4, seed=5)


class Tampered:
    """A runtime whose outputs are those of the detector's own, multiplied by a factor."""

    name = "tampered"
    bytes = 0

    def __init__(self, detector: TrainablePatchCore, factor: float) -> None:
        self._own = detector.runtime
        self._factor = factor

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output * self._factor for output in self._own(images))


def test_openvino_agrees_with_torch(detector: TrainablePatchCore, exported: Path) -> None:
    own, golden = detector.runtime, parity.golden_images(prepared(), seed=0)
    compared = parity.compare(detector, OpenVinoRuntime(exported), golden, tolerance=parity.TOLERANCE)
    parity.check(compared, "openvino")
    assert compared.images == 8
    assert 0 < compared.worst < parity.TOLERANCE
    assert detector.runtime is own


def test_modified_network_is_rejected_with_the_difference(detector: TrainablePatchCore) -> None:
    golden = parity.golden_images(prepared(), seed=0)
    compared = parity.compare(detector, Tampered(detector, 1.1), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match=r"of tampered differ from torch's by 0\.\d"):
        parity.check(compared, "tampered")


def test_rounding_in_inverted_lists_does_not_fail_parity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A patch half-way between two lists may search either of them."""
    detector = TrainablePatchCore(PatchCoreSettings(input_size=64))
    detector.load_pretrained(Path("nowhere"))
    with torch.inference_mode():
        patches, _ = patch_features(detector, inputs(40, seed=1))
    detector.set_memory_bank(patches.flatten(0, 1).clone())
    assert detector.tensors().keys() >= {"index_centroids"}
    golden = parity.golden_images(inputs(8, seed=2), seed=0)
    search, calls = InvertedLists.search, itertools.count()

    def searched(
        lists: InvertedLists, queries: NDArray[np.float32], grid: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        distances, rows = search(lists, queries, grid)
        if next(calls) // len(golden) % 2:  # in every other comparison of the golden images
            distances[distances.argmin()] *= 1.2
        return distances, rows

    monkeypatch.setattr(InvertedLists, "search", searched)
    same = Tampered(detector, 1.0)
    assert parity.compare(detector, same, golden, tolerance=None).anomaly_map > parity.TOLERANCE
    compared = parity.compare(detector, same, golden, tolerance=parity.TOLERANCE)
    parity.check(compared, "tampered")
    assert compared.anomaly_map < 1e-5
    other = parity.compare(detector, Tampered(detector, 1.1), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match="tampered"):
        parity.check(other, "tampered")


def test_nan_outputs_are_rejected(detector: TrainablePatchCore) -> None:
    golden = parity.golden_images(prepared(), seed=0)
    nan = float("nan")
    compared = parity.compare(detector, Tampered(detector, nan), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match="nan"):
        parity.check(compared, "tampered")


def test_failing_runtime_leaves_the_detector_unchanged(detector: TrainablePatchCore) -> None:
    own = detector.runtime

    def fail(images: Tensor) -> tuple[Tensor, ...]:
        raise OSError("gone")

    fail.name = "fail"  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="gone"):
        parity.compare(detector, fail, prepared(), tolerance=None)  # type: ignore[arg-type]
    assert detector.runtime is own


def test_golden_images_are_good_and_corrupted_ones(detector: TrainablePatchCore) -> None:
    good = prepared()
    golden = parity.golden_images(good, seed=0)
    assert all(image.equal(kept) for image, kept in zip(good, golden, strict=False))
    assert all(not image.equal(corrupted) for image, corrupted in zip(good, golden[4:], strict=True))
    assert all(image.shape == (3, 64, 64) for image in golden)
    again = parity.golden_images(good, seed=0)
    assert all(one.equal(other) for one, other in zip(golden, again, strict=True))
