# SPDX-License-Identifier: Apache-2.0
"""A bundle with its network for OpenVINO, as published by a training job."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.support.imports import SLOW_WITH_ANOMALIB, imported_by
from tests.support.moving_part import STILL, seen, texture
from torch import Tensor

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import HeldOutScores, Image, TrainingResult, held_bytes, silent
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.imaging.alignment import Motion
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.jobs.handlers import export
from blemish_core.jobs.handlers.export import ImageSplits
from blemish_core.models import bundle
from blemish_core.models.archive_check import check
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, CalibrationLog, ThresholdRule
from blemish_core.models.loading import load_detector, write_weights
from blemish_core.platform.errors import (
    Corrupt,
    FailedPrecondition,
    InvalidImage,
    JobCancelled,
    RuntimesDisagree,
)
from blemish_core.runtimes import parity
from blemish_core.runtimes.card import HeldOut, RuntimeCard
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (80, 80, 3), dtype=np.uint8)


SURFACE = ImageSplits([partial(picture, number) for number in range(12)], [], [])


def training_of(detector: PatchCore) -> TrainingResult:
    return TrainingResult(detector, HeldOutScores((1.0, 2.0), (1.0, 2.0)), 12, "held out")


def manifest(detector: PatchCore, runtimes: dict[str, RuntimeCard], sha256: dict[str, str]) -> Manifest:
    return Manifest(
        model="tile",
        version=1,
        detector=detector.name,
        settings=detector.settings,
        input_size=detector.input_size,
        category="tile",
        dataset="tile",
        dataset_snapshot="0" * 64,
        created=datetime.now(UTC),
        job="1",
        seed=0,
        split=bundle.TrainingSplit(learned=12, held_out=2, method="held out"),
        calibration=Calibration.of([1.0, 2.0], [1.0, 2.0], 0.25),
        metrics=None,
        runtimes=runtimes,
        libraries={},
        sha256=sha256,
        size_bytes=0,
    )


@pytest.fixture(scope="module")
def published(detector: PatchCore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    card = export.export_openvino(training_of(detector), SURFACE, folder, 0, silent)
    sha256, _ = write_weights(detector, folder)
    sha256 |= bundle.sha256_below(folder, bundle.OPENVINO)
    bundle.write_manifest(manifest(detector, {"openvino": card}, sha256), folder)
    return folder


def test_both_runtimes_of_a_bundle_agree_within_the_tolerance(published: Path) -> None:
    card, ours = load_detector(published, "cpu", RuntimeChoice("torch"))
    _, its = load_detector(published, "cpu", RuntimeChoice("openvino"))
    assert (ours.runtime.name, its.runtime.name) == ("torch", "openvino")
    parity_of = card.runtimes["openvino"].parity
    assert parity_of is not None
    assert parity_of.tolerance == parity.TOLERANCE
    assert 0 < parity_of.worst <= parity.TOLERANCE
    images = [picture(number) for number in range(100, 105)]
    for one, other in zip(
        ours.predict([ours.prepare(image) for image in images]),
        its.predict([its.prepare(image) for image in images]),
        strict=True,
    ):
        spread = float(np.ptp(one.anomaly_map))
        assert abs(other.score - one.score) <= parity.TOLERANCE * spread
        assert np.abs(other.anomaly_map - one.anomaly_map).max() <= parity.TOLERANCE * spread
        assert np.linalg.norm(other.embedding - one.embedding) <= parity.TOLERANCE


def test_openvino_serves_by_default_on_a_cpu(published: Path) -> None:
    _, detector = load_detector(published, "cpu")
    assert detector.runtime.name == "openvino"


def test_weights_are_in_memory_once(published: Path) -> None:
    _, on_torch = load_detector(published, "cpu", RuntimeChoice("torch"))
    _, detector = load_detector(published, "cpu", RuntimeChoice("openvino"))
    assert detector.runtime.bytes < detector.bytes
    network_bytes = held_bytes(on_torch.network)
    assert detector.bytes - detector.runtime.bytes == on_torch.bytes - network_bytes
    with pytest.raises(RuntimeError, match="were released"):
        detector.network  # noqa: B018


def test_openvino_model_does_not_import_torch_networks(
    published: Path,
) -> None:
    script = (
        "from pathlib import Path; import numpy\n"
        "from blemish_core.models.loading import load_detector\n"
        f"manifest, detector = load_detector(Path({str(published)!r}), 'cpu')\n"
        "detector.predict([detector.prepare(numpy.zeros((60, 80, 3), 'u1'))])\n"
        "assert detector.runtime.name == 'openvino'"
    )
    assert SLOW_WITH_ANOMALIB & imported_by(script) == set()


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Callable[[], Path]:
    return lambda: Path(shutil.copytree(published, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["openvino/model.xml", "openvino/model.bin"])
def test_modified_network_file_is_not_loaded(copied: Callable[[], Path], name: str) -> None:
    folder = copied()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(Corrupt, match=f"{name} is not the file that was written"):
        load_detector(folder, "cpu", RuntimeChoice("torch"))


def test_bundle_without_openvino_is_served_by_torch(
    copied: Callable[[], Path], detector: PatchCore
) -> None:
    folder = copied()
    shutil.rmtree(folder / "openvino")
    old = bundle.read_manifest(folder)
    weights = {bundle.WEIGHTS: old.sha256[bundle.WEIGHTS]}
    text = old.model_copy(update={"sha256": weights}).model_dump_json(exclude={"runtimes"})
    (folder / bundle.MANIFEST).write_text(text)
    assert load_detector(folder, "cpu")[1].runtime.name == "torch"
    with pytest.raises(FailedPrecondition, match="set BLEMISH_RUNTIME=auto"):
        load_detector(folder, "cpu", RuntimeChoice("openvino"))


def test_runtime_with_other_scores_has_its_own_calibration(detector: PatchCore) -> None:
    int8 = RuntimeCard(
        file="openvino/int8.xml", held_out=HeldOut(scores=(5.0, 6.0, 7.0), map_maxima=(8.0, 9.0, 10.0))
    )
    card = manifest(detector, {"openvino": RuntimeCard(file="x"), "openvino-int8": int8}, {})
    assert card.calibration_under("torch") == card.calibration
    assert card.calibration_under("openvino") == card.calibration
    served = card.calibration_under("openvino-int8")
    assert served.scores == (5.0, 6.0, 7.0)
    assert served.pixel_threshold == 10.0
    assert served.target_false_reject_rate == card.calibration.target_false_reject_rate


def test_changed_false_reject_rate_applies_to_the_scores_of_the_runtime(
    detector: PatchCore, tmp_path: Path
) -> None:
    held = HeldOut(scores=(5.0, 6.0, 7.0), map_maxima=(8.0, 9.0, 10.0))
    int8 = RuntimeCard(file="openvino/int8.xml", held_out=held)
    card = manifest(detector, {"openvino-int8": int8}, {})
    ours = CalibrationLog(tmp_path, card, card.calibration_under("torch"))
    its = CalibrationLog(tmp_path, card, card.calibration_under("openvino-int8"))
    assert its.newest().calibration.threshold == 7.0
    ours.append(CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, "operator", 0.5))
    assert (its.newest().number, its.newest().calibration.threshold) == (2, 6.0)
    assert ours.newest().calibration.threshold < 5.0


def test_export_with_other_predictions_is_not_published(
    detector: PatchCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OpenVinoRuntime.__call__

    def tampered(self: OpenVinoRuntime, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(1.05 * answer for answer in honest(self, images))

    monkeypatch.setattr(OpenVinoRuntime, "__call__", tampered)
    with pytest.raises(RuntimesDisagree, match=r"of openvino differ from torch.* Nothing was published"):
        export.export_openvino(training_of(detector), SURFACE, tmp_path, 0, silent)


def test_export_ends_when_the_job_is_cancelled(detector: PatchCore, tmp_path: Path) -> None:
    def progress(phase: str, done: int, total: int, unit: str) -> None:
        raise JobCancelled(phase)

    with pytest.raises(JobCancelled, match="openvino"):
        export.export_openvino(training_of(detector), SURFACE, tmp_path, 0, progress)


def masked(folder: Path, png: bytes, mask: FrameMask) -> Path:
    """Add a mask to a bundle."""
    (folder / bundle.MASK).write_bytes(png)
    card = bundle.read_manifest(folder)
    hashes = {**card.sha256, bundle.MASK: bundle.sha256(folder / bundle.MASK)}
    update = {"mask": mask.summary(), "sha256": hashes}
    bundle.write_manifest(card.model_copy(update=update), folder)
    return folder


def half_mask() -> FrameMask:
    looks = np.ones((80, 80), np.bool_)
    looks[:, :40] = False
    return FrameMask(looks)


@pytest.mark.parametrize("choice", [RuntimeChoice("torch"), RuntimeChoice("openvino")], ids=str)
def test_bundle_with_a_mask_ignores_its_pixels(copied: Callable[[], Path], choice: RuntimeChoice) -> None:
    mask = half_mask()
    _, detector = load_detector(masked(copied(), mask.to_png(), mask), "cpu", choice)
    frame = picture(1)
    other = frame.copy()
    other[:, :40] = picture(2)[:, :40]
    first, second = detector.predict([detector.prepare(frame), detector.prepare(other)])
    assert first.score == pytest.approx(second.score, abs=1e-5)
    np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-5)
    np.testing.assert_allclose(first.anomaly_map, second.anomaly_map, atol=1e-5)
    with pytest.raises(InvalidImage, match="the mask is for 80 x 80"):
        detector.prepare(frame[:40])


def test_imported_bundle_with_a_mask_runs(copied: Callable[[], Path]) -> None:
    mask = half_mask()
    check(masked(copied(), mask.to_png(), mask))


def test_bundle_with_an_unreadable_mask_is_not_loaded(copied: Callable[[], Path]) -> None:
    folder = masked(copied(), b"not a PNG", half_mask())
    with pytest.raises(Corrupt, match=r"mask\.png cannot be read; train again"):
        load_detector(folder, "cpu")
    (folder / bundle.MASK).write_bytes(b"another")
    with pytest.raises(Corrupt, match=r"mask\.png is not the file that was written"):
        load_detector(folder, "cpu")


def test_bundle_with_a_mask_of_another_size_is_not_loaded(copied: Callable[[], Path]) -> None:
    small = FrameMask(np.eye(64, dtype=np.bool_))
    with pytest.raises(Corrupt, match="has another size than its manifest"):
        load_detector(masked(copied(), small.to_png(), half_mask()), "cpu")


def aligned(folder: Path, reference: bytes | None) -> Path:
    """Add a mask that moves to a bundle."""
    mask = half_mask()
    folder = masked(folder, mask.to_png(), mask)
    card = bundle.read_manifest(folder)
    assert card.mask is not None
    update: dict[str, object] = {
        "mask": card.mask.model_copy(update={"reference": "train/good/0.png"}),
    }
    if reference is not None:
        (folder / bundle.REFERENCE).write_bytes(reference)
        update["sha256"] = {**card.sha256, bundle.REFERENCE: bundle.sha256(folder / bundle.REFERENCE)}
    bundle.write_manifest(card.model_copy(update=update), folder)
    return folder


def test_mask_of_a_loaded_bundle_moves_with_the_part(copied: Callable[[], Path]) -> None:
    shown = seen(texture(0), STILL, (80, 80))
    reference = half_mask().aligned_to(shown).reference_png()
    folder = aligned(copied(), reference)
    _, detector = load_detector(folder, "cpu")
    assert detector.mask is not None
    motion = Motion(9, -4, 0)
    moved = detector.mask.apply(seen(texture(0), motion, (80, 80)))
    assert not moved.looks[:, :48].any()
    assert moved.looks[:70, 50:].all()
    check(folder)


@pytest.mark.parametrize("reference", [None, b"not a PNG"])
def test_bundle_with_an_unreadable_reference_is_not_loaded(
    copied: Callable[[], Path], reference: bytes | None
) -> None:
    with pytest.raises(Corrupt, match=r"reference\.png cannot be read; train again"):
        load_detector(aligned(copied(), reference), "cpu")
