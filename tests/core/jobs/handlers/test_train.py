# SPDX-License-Identifier: Apache-2.0
"""Training on a backbone whose weights were imported: a small transformer of timm."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.support.job_context import make_job_context
from tests.support.job_reporter import RecordingReporter
from tests.support.manifests import make_manifest
from torch import nn

from blemish_core.detectors.common.backbone import import_weights
from blemish_core.detectors.patchcore.training import train as patchcore_training
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.detector_cache import DetectorCache
from blemish_core.jobs.handlers.evaluate import evaluate
from blemish_core.jobs.handlers.train import train
from blemish_core.jobs.record import EvaluateSpec, PatchCoreSpec, TrainSpec
from blemish_core.models.bundle import write_manifest
from blemish_core.models.calibration_log import CalibrationChange, ThresholdRule
from blemish_core.models.good_images import read_good_images
from blemish_core.models.loading import load_detector
from blemish_core.models.promotion import CalibrationChoice, describe
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef
from blemish_core.runtimes import openvino_runtime

BACKBONE = "test_vit"
SPEC = TrainSpec(
    dataset="cloth", model_id="cloth", patchcore=PatchCoreSpec(backbone=BACKBONE, input_size=96)
)


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    """Make a store with a dataset of eight good images of noise."""
    random = np.random.default_rng(11)
    good = tmp_path / "images" / "train" / "good"
    good.mkdir(parents=True)
    for number in range(8):
        Image.fromarray(random.integers(0, 256, (96, 128, 3), np.uint8)).save(good / f"{number}.png")
    context = make_job_context(tmp_path)
    context.datasets.import_folder("cloth", "", tmp_path / "images", [tmp_path])
    return context


@pytest.fixture
def weights(context: JobContext, tmp_path: Path) -> None:
    """Import random weights of the backbone."""
    torch.manual_seed(12)
    network = timm.create_model(BACKBONE, pretrained=False)
    for weight in network.parameters():
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim == 2 else 0.2)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    import_weights(BACKBONE, tmp_path / "weights.pth", context.weights)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(13).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def test_training_without_imported_weights_fails_and_names_the_file(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FailedPrecondition, match=f"huggingface.co/timm/{BACKBONE}") as missing:
        train(context, SPEC, "job", RecordingReporter())
    assert f"`blemish weights import {BACKBONE} FILE`" in str(missing.value)


@pytest.mark.usefixtures("weights")
def test_transformer_is_served_by_openvino(context: JobContext) -> None:
    reporter = RecordingReporter()
    train(context, SPEC, "job", reporter)
    card, detector = load_detector(context.models.folder("cloth", 1), "cpu")
    assert card.runtimes["openvino"].parity is not None
    assert detector.runtime.name == "openvino"
    (prediction,) = detector.predict([detector.prepare(noise())])
    assert prediction.score > 0
    assert not [text for text in reporter.warnings if "torch serves" in text]


@pytest.mark.usefixtures("weights")
def test_transformer_that_openvino_cannot_run_is_served_by_torch(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ValueError("no rule for this operation")

    monkeypatch.setattr(torch.export, "export", refused)
    openvino_runtime.CONVERSIONS.clear()
    reporter = RecordingReporter()
    train(context, SPEC, "job", reporter)
    card, detector = load_detector(context.models.folder("cloth", 1), "cpu")
    assert card.runtimes["openvino"].file is None
    assert "no rule for this operation" in card.runtimes["openvino"].refusal
    assert [text for text in reporter.warnings if text.startswith("torch serves this version")]
    assert detector.runtime.name == "torch"
    (prediction,) = detector.predict([detector.prepare(noise())])
    assert prediction.score > 0


@pytest.fixture
def samples(context: JobContext, tmp_path: Path) -> NDArray[np.uint16]:
    """Import a dataset "dark" of images of 12 bits in PNGs of 16; return another such image."""
    random = np.random.default_rng(14)
    good = tmp_path / "dark" / "train" / "good"
    good.mkdir(parents=True)
    for number in range(8):
        Image.fromarray(random.integers(0, 4096, (96, 128)).astype(np.uint16)).save(good / f"{number}.png")
    context.datasets.import_folder("dark", "", tmp_path / "dark", [tmp_path])
    return random.integers(0, 4096, (96, 128)).astype(np.uint16)


def deep_spec() -> TrainSpec:
    return SPEC.model_copy(update={"dataset": "dark", "model_id": "dark"})


@pytest.mark.usefixtures("weights")
def test_model_of_12_bit_files_scores_raw_frames_alike(
    context: JobContext, samples: NDArray[np.uint16]
) -> None:
    context.datasets.set_white_level("dark", 4095)
    reporter = RecordingReporter()
    train(context, deep_spec(), "job", reporter)
    assert not [text for text in reporter.warnings if "sixteenth" in text]
    card, detector = load_detector(context.models.folder("dark", 1), "cpu")
    assert card.white_level == WhiteLevel(level=4095, given=True)
    file = BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    stream = sum(int(sample) << (12 * place) for place, sample in enumerate(samples.ravel()))
    images = [
        ImageInput(file.getvalue()),
        ImageInput(samples.tobytes(), RawLayout("Mono12", 128, 96)),
        ImageInput(stream.to_bytes(samples.size * 3 // 2, "little"), RawLayout("Mono12p", 128, 96)),
    ]
    inputs = [detector.prepare(image.pixels(context.limits, card.white_level)) for image in images]
    scores = [prediction.score for each in inputs for prediction in detector.predict([each])]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.usefixtures("weights", "samples")
def test_training_warns_of_images_that_use_a_sixteenth_of_their_range(context: JobContext) -> None:
    reporter = RecordingReporter()
    train(context, deep_spec(), "job", reporter)
    (warning,) = [text for text in reporter.warnings if "sixteenth" in text]
    assert "8 images" in warning
    assert "blemish dataset update dark --white-level" in warning
    assert context.models.manifest(ModelRef("dark", 1)).white_level == WhiteLevel()


@pytest.mark.usefixtures("weights")
def test_evaluation_on_a_dataset_of_another_white_level_warns(
    context: JobContext, samples: NDArray[np.uint16], tmp_path: Path
) -> None:
    context.datasets.set_white_level("dark", 4095)
    train(context, deep_spec(), "job", RecordingReporter())
    for number, part in enumerate(("test/good", "test/spot")):
        (tmp_path / "ten" / part).mkdir(parents=True)
        Image.fromarray(samples // 4 + number).save(tmp_path / "ten" / part / "0.png")
    context.datasets.import_folder("ten", "", tmp_path / "ten", [tmp_path], white_level=1023)
    reporter = RecordingReporter()
    spec = EvaluateSpec(model="models/dark/versions/1", dataset="ten")
    evaluate(context, DetectorCache(context), spec, "evaluation", reporter)
    (warning,) = [text for text in reporter.warnings if "white level" in text]
    assert "datasets/ten have the white level 1023, but are read by the white level 4095" in warning


@pytest.mark.usefixtures("weights")
def test_copies_of_training_images_are_reported_and_left_out(context: JobContext, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for part in ("test/good", "test/spot"):
        (images / part).mkdir(parents=True)
        Image.fromarray(noise()).save(images / part / "new.png")
        (images / part / "old.png").write_bytes((images / "train/good/0.png").read_bytes())
    Image.fromarray(noise() // 2).save(images / "test/good/new.png")
    imported = context.datasets.import_folder("cloth", "", images, [tmp_path])
    assert "test/good/old.png = test/spot/old.png = train/good/0.png" in imported.dataset.copies[0]
    reporter = RecordingReporter()
    train(context, SPEC, "job", reporter)
    assert [text for text in reporter.warnings if "test/spot/old.png" in text]
    manifest = context.models.manifest(ModelRef("cloth", 1))
    assert manifest.metrics is not None
    assert (manifest.metrics.good_images, manifest.metrics.defective_images) == (1, 1)
    assert manifest.metrics.copied_images == 2
    assert "test/spot/old.png" in manifest.training["equal files"]
    log = "\n".join(reporter.notes)
    for line in (
        "images: 8 good ones",
        "settings: backbone test_vit",
        "threshold: ",
        "defective images detected",
    ):
        assert line in log
    # A later evaluation leaves them out too, also on another dataset.
    context.datasets.import_folder("other", "", images, [tmp_path])
    context.datasets.remove("other", ["train/good/0.png", "test/good/old.png"])
    spec = EvaluateSpec(model="models/cloth/versions/1", dataset="other")
    result = evaluate(context, DetectorCache(context), spec, "evaluation", RecordingReporter())
    assert result.metrics is not None
    assert (result.metrics.defective_images, result.metrics.copied_images) == (1, 1)


def test_report_shows_an_odd_good_image_and_concludes_without_test_images(
    context: JobContext, tmp_path: Path
) -> None:
    random = np.random.default_rng(21)
    good = tmp_path / "images" / "train" / "good"
    for number in range(8, 16):
        Image.fromarray(random.integers(0, 256, (96, 128, 3), np.uint8)).save(good / f"{number}.png")
    odd = random.integers(0, 256, (96, 128, 3), np.uint8)
    odd[32:64, 32:64] = 255
    Image.fromarray(odd).save(good / "odd.png")
    context.datasets.import_folder("cloth", "", tmp_path / "images", [tmp_path])
    reporter = RecordingReporter()
    spec = SPEC.model_copy(update={"patchcore": PatchCoreSpec(input_size=96)})
    train(context, spec, "job", reporter)
    images = read_good_images(context.models.folder("cloth", 1))
    assert images is not None
    assert max(images, key=lambda each: each.score or 0.0).path == "train/good/odd.png"
    assert all(each.held_out for each in images)
    (warning,) = [text for text in reporter.warnings if "far higher scores" in text]
    assert "train/good/odd.png" in warning
    page = context.models.report(ModelRef("cloth", 1)).read_text()
    for text in ("Not fit for production yet", "Operating points", "train/good/odd.png (stands out)"):
        assert text in page
    pictures = context.models.folder("cloth", 1) / "report"
    assert len(list(pictures.glob("held-out-*.png"))) == 4
    assert [line for line in reporter.notes if line.startswith("conclusion: Not fit for production yet")]


@pytest.mark.usefixtures("weights")
def test_learned_images_get_scores_if_others_are_held_out(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patchcore_training, "CROSS_CALIBRATE_BELOW", 0)
    train(context, SPEC, "job", RecordingReporter())
    images = read_good_images(context.models.folder("cloth", 1))
    assert images is not None
    assert sum(each.held_out for each in images) == 2
    assert all(each.score is not None for each in images)
    pictures = context.models.folder("cloth", 1) / "report"
    assert len(list(pictures.glob("learned-*.png"))) == 4


def test_promotion_at_the_end_does_not_lose_the_threshold_of_a_person(tmp_path: Path) -> None:
    context = make_job_context(tmp_path)
    for job in ("first", "second"):

        def write(folder: Path, number: int, job: str = job) -> None:
            write_manifest(make_manifest("tile", number, job), folder)

        context.models.publish("tile", job, write)
    context.models.promote(ModelRef("tile", 1))
    person = CalibrationChange(ThresholdRule.FIXED, "ann", 14.0)
    context.models.calibrations(context.models.manifest(ModelRef("tile", 1))).append(person)
    spec = TrainSpec(dataset="tile", model_id="tile", promote=True)
    reporter = RecordingReporter()
    # A second attempt of a job that has published its version only promotes it.
    assert train(context, spec, "second", reporter).model_version == "models/tile/versions/2"
    assert context.models.production("tile") == 1
    (warning,) = reporter.warnings
    assert (
        "models/tile/versions/2 was not promoted: models/tile/versions/1 judges by threshold 14" in warning
    )
    assert "(--keep-target)" in warning
    kept = spec.model_copy(update={"promoted_calibration": CalibrationChoice.KEEP_TARGET})
    reporter = RecordingReporter()
    train(context, kept, "second", reporter)
    assert (context.models.production("tile"), reporter.warnings) == (2, [])
    newest = context.models.calibrations(context.models.manifest(ModelRef("tile", 2))).newest()
    assert newest.author == "jobs/second"
    assert newest.value == pytest.approx(1 / 3)
    assert reporter.notes == [f"models/tile/versions/2 is in production and judges by {describe(newest)}"]


@pytest.mark.usefixtures("weights")
def test_card_has_the_measured_time_of_a_frame_by_each_runtime(context: JobContext) -> None:
    train(context, SPEC, "job", RecordingReporter())
    manifest = context.models.manifest(ModelRef("cloth", 1))
    assert {each.runtime for each in manifest.latencies} == {"torch", "openvino"}
    assert all(each.frames >= 5 and each.median_s > 0 for each in manifest.latencies)
