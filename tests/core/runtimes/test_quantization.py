# SPDX-License-Identifier: Apache-2.0
"""INT8 of a small PatchCore, which is quantized in seconds and stands for other detectors."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.patches import patch_features

from blemish_core.detectors.base import HeldOutScores, Image, TrainingResult, silent
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.jobs.handlers import export
from blemish_core.jobs.handlers.export import ImageSplits
from blemish_core.platform.errors import JobCancelled
from blemish_core.runtimes import openvino_runtime, quantization
from blemish_core.runtimes.card import Quantization
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime


def picture(seed: int, *, defect: bool = False) -> Image:
    random = np.random.default_rng(seed)
    wave = 120 + 60 * np.sin(np.arange(64) / 4 + random.uniform(0, 6))
    image = np.repeat(wave[None, :], 64, axis=0) + random.normal(0, 4, (64, 64))
    if defect:
        image[20:44, 20:44] = random.uniform(0, 255, (24, 24))
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


SURFACE = ImageSplits(
    train=[partial(picture, number) for number in range(6)],
    good=[partial(picture, number) for number in range(10, 14)],
    defective=[partial(picture, number, defect=True) for number in range(20, 24)],
)


@pytest.fixture(scope="module")
def detector() -> TrainablePatchCore:
    settings = PatchCoreSettings(input_size=64)
    made = TrainablePatchCore(settings)
    made.load_pretrained(Path("nowhere"))
    with torch.inference_mode():
        patches, _ = patch_features(
            made, [made.prepare(SURFACE.train[number]()) for number in (0, 2, 3, 5)]
        )
    made.set_memory_bank(patches.flatten(0, 1).clone())
    return made


@pytest.fixture(scope="module")
def folder(detector: TrainablePatchCore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("int8")
    openvino_runtime.export(detector.network, detector.network_size, where / "openvino" / "model.xml")
    return where


@pytest.fixture
def training(detector: TrainablePatchCore) -> TrainingResult:
    return TrainingResult(
        detector, HeldOutScores((1.0, 2.0), (1.0, 2.0)), 4, "held out", held_out_indices=(1, 4)
    )


def test_int8_is_published_with_both_aurocs_and_its_held_out_scores(
    training: TrainingResult, folder: Path
) -> None:
    reported: dict[str, tuple[int, int]] = {}

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        assert done >= reported.get(phase, (0, 0))[0]
        reported[phase] = (done, total)

    own = training.detector.runtime
    card = export.export_int8(training, SURFACE, 0.01, folder, 0, progress)
    assert training.detector.runtime is own
    assert reported == {"int8 ranges": (4, 4), "int8 evaluation": (10, 10)}
    assert card.file == "openvino/int8.xml"
    assert card.quantization is not None
    assert card.quantization.calibration_images == 4
    assert card.quantization.auroc_f32 == 0.01  # so low that INT8 of this backbone is published
    detector = training.detector
    try:
        detector.run_on(OpenVinoRuntime(folder / "openvino" / "int8.xml", name="openvino-int8"))
        good, bad, held = (
            [
                prediction.score
                for prediction in detector.predict([detector.prepare(read()) for read in reads])
            ]
            for reads in (SURFACE.good, SURFACE.defective, [SURFACE.train[1], SURFACE.train[4]])
        )
    finally:
        detector.run_on(own)
    assert card.held_out is not None
    assert card.held_out.scores == pytest.approx(sorted(held), rel=1e-5)
    assert card.quantization.auroc_int8 == image_auroc(good, bad)
    assert card.parity is not None
    assert card.parity.tolerance is None
    assert card.parity.worst > 1e-4  # the parity of INT8
    size = (folder / "openvino" / "int8.bin").stat().st_size
    assert size < 0.5 * (folder / "openvino" / "model.bin").stat().st_size


def test_int8_that_loses_too_much_leaves_its_aurocs_but_no_file(
    training: TrainingResult, folder: Path
) -> None:
    card = export.export_int8(training, SURFACE, 1.5, folder, 0, silent)  # higher than INT8 can reach
    assert card.file is None
    assert "reduces the image AUROC from 1.5000 to" in card.refusal
    assert not list(folder.glob("openvino/int8.*"))


def test_int8_is_refused_without_defective_test_images(training: TrainingResult, folder: Path) -> None:
    card = export.export_int8(training, SURFACE, None, folder, 0, silent)
    assert card.file is None
    assert "without good and defective test images" in card.refusal


def test_int8_is_refused_without_held_out_images(detector: TrainablePatchCore, folder: Path) -> None:
    crossed = TrainingResult(detector, HeldOutScores((1.0,), (1.0,)), 6, "cross-calibration")
    card = export.export_int8(crossed, SURFACE, 0.9, folder, 0, silent)
    assert card.file is None
    assert "learned from every good image" in card.refusal


def test_quantization_ends_when_the_job_is_cancelled(training: TrainingResult, folder: Path) -> None:
    def progress(phase: str, done: int, total: int, unit: str) -> None:
        if done == 2:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        export.export_int8(training, SURFACE, 0.9, folder, 0, progress)
    assert not list(folder.glob("openvino/int8.*"))


def test_calibration_images_have_a_patch_of_noise() -> None:
    grey = torch.linspace(0, 1, 3 * 64 * 64).view(3, 64, 64)
    calibration = quantization.CalibrationImages([lambda: grey, lambda: grey], lambda done, total: None)
    first, second = (np.asarray(batch)[0] != grey.numpy() for batch in calibration)
    assert first.mean() == pytest.approx(1 / 16, abs=0.005)
    assert not np.array_equal(first, second)
    again = np.asarray(next(iter(calibration)))[0] != grey.numpy()
    assert np.array_equal(first, again)  # every pass sees the same


def test_nncf_draws_no_progress_bars(
    training: TrainingResult, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    detector = training.detector
    inputs = [partial(lambda read: detector.prepare(read()), read) for read in SURFACE.train[:2]]
    quantization.quantize(
        folder / "openvino" / "model.xml", folder / "bars.xml", inputs, lambda done, total: None
    )
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("f32", "int8", "published"), [(0.99, 0.986, True), (0.99, 0.984, False), (0.9, 0.95, True)]
)
def test_int8_is_refused_above_the_largest_drop(f32: float, int8: float, published: bool) -> None:
    measured = Quantization(calibration_images=9, auroc_f32=f32, auroc_int8=int8, max_drop=0.005)
    assert (quantization.refusal(measured) == "") is published
