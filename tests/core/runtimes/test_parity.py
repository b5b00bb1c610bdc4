# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blemish_core.detectors.patchcore import PatchCore, PatchCoreSettings
from blemish_core.errors import RuntimesDisagree
from blemish_core.runtimes import parity
from blemish_core.runtimes.on_openvino import OpenVinoRuntime


def inputs(count: int, seed: int) -> list[Tensor]:
    return list(torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))


def prepared() -> list[Tensor]:
    return inputs(4, seed=5)


class Tampered:
    """The detector's own network, a little off."""

    name = "tampered"
    bytes = 0

    def __init__(self, detector: PatchCore, factor: float) -> None:
        self._own = detector.runtime
        self._factor = factor

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(answer * self._factor for answer in self._own(images))


def test_openvino_agrees_with_torch(detector: PatchCore, exported: Path) -> None:
    own, golden = detector.runtime, parity.golden_images(prepared(), seed=0)
    compared = parity.compare(detector, OpenVinoRuntime(exported), golden, tolerance=parity.TOLERANCE)
    parity.check(compared, "openvino")
    assert compared.images == 8
    assert 0 < compared.worst < parity.TOLERANCE
    assert detector.runtime is own


def test_a_network_that_was_tampered_with_is_refused_with_the_figures(detector: PatchCore) -> None:
    golden = parity.golden_images(prepared(), seed=0)
    compared = parity.compare(detector, Tampered(detector, 1.1), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match=r"tampered gives other .* than torch: they differ by 0\.\d"):
        parity.check(compared, "tampered")


class Nudged:
    """The detector's own network, rounded otherwise."""

    name = "nudged"
    bytes = 0

    def __init__(self, detector: PatchCore, seed: int) -> None:
        self._own = detector.runtime
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            answer * (1 + 3e-5 * torch.randn(answer.shape, generator=self._random))
            for answer in self._own(images)
        )


def test_what_inverted_lists_find_by_rounding_alone_is_no_disagreement() -> None:
    """A patch half way between two lists finds an entry of the one or of the other."""
    torch.manual_seed(3)
    detector = PatchCore(PatchCoreSettings(input_size=64))
    detector.load_pretrained(Path("nowhere"))
    with torch.inference_mode():
        patches, _ = detector.features(inputs(40, seed=1))
    detector.remember(patches.flatten(0, 1).clone())
    assert detector.tensors().keys() >= {"index_centroids"}
    golden = parity.golden_images(inputs(8, seed=2), seed=0)
    tolerance, found = 4e-4, []
    for seed in range(8, 12):
        found.append(parity.compare(detector, Nudged(detector, seed), golden, tolerance=None).anomaly_map)
        compared = parity.compare(detector, Nudged(detector, seed), golden, tolerance=tolerance)
        parity.check(compared, "nudged")
    assert max(found) > tolerance, "the lists never found another entry: this shows nothing"
    tampered = parity.compare(detector, Tampered(detector, 1.1), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match="tampered"):
        parity.check(tampered, "tampered")


def test_answers_that_are_no_numbers_are_refused(detector: PatchCore) -> None:
    golden = parity.golden_images(prepared(), seed=0)
    nan = float("nan")
    compared = parity.compare(detector, Tampered(detector, nan), golden, tolerance=parity.TOLERANCE)
    with pytest.raises(RuntimesDisagree, match="nan"):
        parity.check(compared, "tampered")


def test_a_runtime_that_fails_leaves_the_detector_as_it_was(detector: PatchCore) -> None:
    own = detector.runtime

    def fail(images: Tensor) -> tuple[Tensor, ...]:
        raise OSError("gone")

    fail.name = "fail"  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="gone"):
        parity.compare(detector, fail, prepared(), tolerance=None)  # type: ignore[arg-type]
    assert detector.runtime is own


def test_golden_images_are_good_ones_and_spoilt_ones(detector: PatchCore) -> None:
    good = prepared()
    golden = parity.golden_images(good, seed=0)
    assert all(image.equal(kept) for image, kept in zip(good, golden, strict=False))
    assert all(not image.equal(spoilt) for image, spoilt in zip(good, golden[4:], strict=True))
    assert all(image.shape == (3, 64, 64) for image in golden)
    again = parity.golden_images(good, seed=0)
    assert all(one.equal(other) for one, other in zip(golden, again, strict=True))
