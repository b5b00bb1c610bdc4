# SPDX-License-Identifier: Apache-2.0
"""PatchCore in INT8: a training job publishes it with a memory bank of its own."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from tests.support.job_context import make_job_context
from tests.support.job_reporter import RecordingReporter

from blemish_core.detectors import registry
from blemish_core.detectors.patchcore.settings import FEATURE_TENSORS, PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.train import train
from blemish_core.jobs.record import PatchCoreSpec, TrainSpec
from blemish_core.models import bundle
from blemish_core.models.archive_check import check
from blemish_core.models.loading import load_detector
from blemish_core.runtimes import openvino_runtime, quantization
from blemish_core.runtimes.card import Quantization
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime
from blemish_core.serving.loading import load_for_serving

SPEC = TrainSpec(
    dataset="waves",
    model_id="waves",
    patchcore=PatchCoreSpec(backbone="efficientnet_lite0", input_size=96, int8=True),
)
INT8 = RuntimeChoice("openvino-int8")


def wave(seed: int, *, defect: bool = False) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    lines = 120 + 60 * np.sin(np.arange(96) / 4 + random.uniform(0, 6))
    image = np.repeat(lines[None, :], 96, axis=0) + random.normal(0, 4, (96, 96))
    if defect:
        image[30:60, 30:60] = random.uniform(0, 255, (30, 30))
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def context_with(folder: Path, *, tests: bool) -> JobContext:
    """Make a store with a dataset of good training images, and perhaps test images of both kinds."""
    kinds = {"train/good": (0, 8)} | ({"test/good": (20, 26), "test/hole": (30, 36)} if tests else {})
    for name, (begin, end) in kinds.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(begin, end):
            image = wave(number, defect=name == "test/hole")
            Image.fromarray(image).save(folder / "images" / name / f"{number}.png")
    context = make_job_context(folder)
    context.datasets.import_folder("waves", "", folder / "images", [folder])
    return context


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    """Store with a model that was trained with INT8, and judged on test images."""
    made = context_with(tmp_path_factory.mktemp("int8"), tests=True)
    train(made, SPEC, "job", RecordingReporter())
    return made


def test_int8_is_published_with_a_bank_of_its_own_features(context: JobContext) -> None:
    folder = context.models.folder("waves", 1)
    manifest, int8 = load_detector(folder, "cpu", INT8)
    _, f32 = load_detector(folder, "cpu")
    card = manifest.runtimes["openvino-int8"]
    assert card.tensors == "openvino/int8.safetensors"
    assert card.tensors in manifest.sha256
    assert card.quantization == Quantization(
        calibration_images=8, auroc_f32=1.0, auroc_int8=1.0, max_drop=0.003
    )
    assert card.parity is not None
    assert card.parity.tolerance is None
    with safe_open(folder / card.tensors, "np") as own, safe_open(folder / bundle.WEIGHTS, "np") as shared:
        assert set(own.keys()) <= FEATURE_TENSORS
        assert own.get_tensor("memory_bank").shape == shared.get_tensor("memory_bank").shape
        assert not np.array_equal(own.get_tensor("memory_bank"), shared.get_tensor("memory_bank"))
    threshold = manifest.calibration.threshold
    for number in range(40, 48):
        (one,) = int8.predict([int8.prepare(wave(number))])
        (other,) = f32.predict([f32.prepare(wave(number))])
        assert one.score == pytest.approx(other.score, abs=0.2 * threshold)


def test_embeddings_of_a_defect_are_similar_in_both_runtimes(context: JobContext) -> None:
    folder = context.models.folder("waves", 1)
    vectors = []
    for choice in (RuntimeChoice("openvino"), INT8):
        _, detector = load_detector(folder, "cpu", choice)
        (prediction,) = detector.predict([detector.prepare(wave(30, defect=True))])
        vectors.append(prediction.embedding)
    assert float(vectors[0] @ vectors[1]) > 0.8


def test_server_without_torch_scores_by_the_bank_of_int8(context: JobContext) -> None:
    folder = context.models.folder("waves", 1)
    _, by_torch = load_detector(folder, "cpu", INT8)
    _, served = load_for_serving(folder, "cpu", INT8)
    assert served.runtime.name == "openvino-int8"
    for number in range(40, 44):
        (one,) = served.predict([served.prepare(wave(number))])
        (other,) = by_torch.predict([by_torch.prepare(wave(number))])
        assert one.score == pytest.approx(other.score, rel=1e-4)


def test_int8_has_p_values_and_a_threshold_of_its_own(context: JobContext) -> None:
    manifest, int8 = load_detector(context.models.folder("waves", 1), "cpu", INT8)
    calibration = manifest.calibration_under("openvino-int8")
    assert len(calibration.scores) == len(manifest.calibration.scores)
    assert calibration.scores != manifest.calibration.scores
    for number in range(30, 36):
        (prediction,) = int8.predict([int8.prepare(wave(number, defect=True))])
        assert calibration.is_anomalous(prediction.score)


def test_bundle_with_tensors_of_a_runtime_has_a_format_that_older_servers_refuse(
    context: JobContext,
) -> None:
    assert bundle.read_manifest(context.models.folder("waves", 1)).format == 3


def test_imported_bundle_is_checked_with_the_tensors_of_int8(context: JobContext) -> None:
    check(context.models.folder("waves", 1))


def test_int8_is_judged_on_altered_good_images_without_defective_ones(tmp_path: Path) -> None:
    context = context_with(tmp_path, tests=False)
    train(context, SPEC, "job", RecordingReporter())
    card = bundle.read_manifest(context.models.folder("waves", 1)).runtimes["openvino-int8"]
    assert card.quantization is not None
    assert card.quantization.altered == 8
    assert card.quantization.drop is not None
    assert (card.file is None) == (card.quantization.drop > 0.003)


def test_int8_that_loses_too_much_leaves_its_figures_and_a_bundle_for_older_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_with(tmp_path, tests=True)
    strict = replace(registry.ALGORITHMS["patchcore"], max_int8_drop=-0.1)
    monkeypatch.setitem(registry.ALGORITHMS, "patchcore", strict)
    reporter = RecordingReporter()
    train(context, SPEC, "job", reporter)
    manifest = bundle.read_manifest(context.models.folder("waves", 1))
    card = manifest.runtimes["openvino-int8"]
    assert (card.file, card.tensors, manifest.format) == (None, None, bundle.FORMAT)
    assert "reduces the image AUROC from 1.0000 to 1.0000" in card.refusal
    assert any(card.refusal in warning for warning in reporter.warnings)
    assert not [name for name in manifest.sha256 if "int8" in name]


def test_features_at_the_borders_are_as_close_as_inside(tmp_path: Path) -> None:
    detector = TrainablePatchCore(PatchCoreSettings(backbone="efficientnet_lite0", input_size=96))
    detector.load_pretrained(Path("nowhere"))
    openvino_runtime.export(detector.network, detector.network_size, tmp_path / "model.xml")
    inputs = [detector.prepare(wave(number)) for number in range(4)]
    quantization.quantize(
        tmp_path / "model.xml",
        tmp_path / "int8.xml",
        [partial(torch.clone, each) for each in inputs],
        lambda done, total: None,
        quantization.FEATURE_MAPS,
    )
    f32, int8 = (OpenVinoRuntime(tmp_path / f"{name}.xml") for name in ("model", "int8"))
    errors = (int8(inputs[0][None])[0] - f32(inputs[0][None])[0])[0].norm(dim=0)
    inside = errors[2:-2, 2:-2].mean()
    assert errors[0].mean() < 3 * inside
    assert errors[:, -1].mean() < 3 * inside
