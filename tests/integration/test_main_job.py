# SPDX-License-Identifier: Apache-2.0
"""The main job on the real stack: train, score, evaluate, search."""

import json
import re
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_CANCELLING,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    EfficientAd,
    Job,
    PatchCore,
)
from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_client.errors import (
    CONFIRMATION_NEEDED,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from blemish_core.models.commands import app as weights_app


def image(surfaces: Path, path: str) -> bytes:
    return (surfaces / "tile" / path).read_bytes()


def test_training_writes_a_card(client: Client, tile_model: str) -> None:
    card = client.model(tile_model)
    assert card.name == tile_model
    assert card.production
    assert (card.detector, card.category, card.dataset) == ("patchcore", "tile", "datasets/tile")
    assert (card.split.learned, card.split.held_out) == (24, 24)
    assert card.split.method == "cross-calibration"
    assert card.metrics.good_images == 6
    assert card.metrics.defective_images == 8
    assert card.metrics.image_auroc > 0.6
    assert 0 < card.metrics.aupro < 1
    assert card.calibration.threshold > 0
    assert {"torch", "anomalib"} <= set(card.libraries)
    assert card.training == {
        "features by": "openvino",
        "scale": "2, from the size of the images",
        "input": "256 x 256 px, 1024 patches",
        "bank": "2457 of 24576 patches",
    }
    assert card.dataset_snapshot == client.dataset("tile").snapshot


def test_scores_with_map_and_embedding(client: Client, surfaces: Path, tile_model: str) -> None:
    asked = client.score(image(surfaces, "test/crack/000.png"), "tile", anomaly_map=True, embedding=True)
    assert asked.model_version == tile_model
    assert asked.verdict == (VERDICT_ANOMALOUS if asked.score > asked.threshold else VERDICT_NORMAL)
    assert 0 < asked.p_value <= 1
    pixels = np.frombuffer(asked.anomaly_map.values, "<f4").reshape(
        asked.anomaly_map.height, asked.anomaly_map.width
    )
    assert pixels.shape == (256, 256)
    assert np.isfinite(pixels).all()
    assert np.linalg.norm(asked.embedding) == pytest.approx(1, abs=1e-4)
    plain = client.score(image(surfaces, "test/crack/000.png"), "tile@production")
    assert plain.score == pytest.approx(asked.score, rel=1e-4)
    assert not plain.HasField("anomaly_map")
    assert plain.timings.inference.nanos > 0


def test_search_finds_the_image_itself_first(client: Client, surfaces: Path, tile_model: str) -> None:
    found = client.search(image(surfaces, "test/oil/000.png"), "tile", limit=5, thumbnails=True)
    assert found.query is not None
    hits = list(found)
    assert len(hits) == 5
    assert hits[0].path == "test/oil/000.png"
    assert hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    assert hits[0].thumbnail.startswith(b"\xff\xd8")
    assert (hits[0].category, hits[0].class_name, hits[0].dataset) == ("tile", "oil", "datasets/tile")
    assert hits[0].score == pytest.approx(found.query.score, rel=1e-3)

    same = list(client.search(hits[0].item, "tile", limit=20, datasets=["tile"]))
    assert len(same) == 13  # all but itself
    assert [hit.item for hit in same[:4]] == [hit.item for hit in hits[1:]]


def test_search_filters(client: Client, surfaces: Path, tile_model: str) -> None:
    query = image(surfaces, "test/good/000.png")
    cracks = list(client.search(query, "tile", limit=50, classes=["crack", "rough"]))
    assert {hit.class_name for hit in cracks} == {"crack", "rough"}
    with pytest.raises(NotFound, match="has category 'leather'; there are: tile"):
        list(client.search(query, "tile", categories=["leather"]))
    with pytest.raises(
        NotFound, match="has class_name 'dent'; there are: crack, glue_strip, good, oil, rough"
    ):
        list(client.search(query, "tile", classes=["crack", "dent"]))
    assert len(list(client.search(query, "tile", limit=100, datasets=["tile"], categories=["tile"]))) == 14


def test_evaluation_agrees_with_training(client: Client, tile_model: str) -> None:
    job = client.wait(client.evaluate("tile", "tile"))
    assert job.state == JOB_STATE_SUCCEEDED
    assert job.evaluate.model == tile_model  # fixed when the job was accepted
    trained = client.model(tile_model).metrics
    assert job.result.metrics.image_auroc == pytest.approx(trained.image_auroc, abs=1e-6)
    assert job.result.metrics.aupro == pytest.approx(trained.aupro, abs=1e-4)
    assert job.result.metrics.intervals["aupro"].low < trained.aupro
    assert job.result.metrics.latency.runtime
    assert job.result.metrics.latency.inference.p50.ToNanoseconds() > 0
    assert {of.class_name: of.images for of in trained.classes} == {
        "crack": 2,
        "glue_strip": 2,
        "oil": 2,
        "rough": 2,
    }


def test_training_and_evaluation_leave_reports(
    client: Client, stack_data: Path, tile_model: str, tmp_path: Path
) -> None:
    judged = client.wait(client.evaluate(tile_model, "tile"))
    of_training, of_evaluation = client.report("tile"), client.report(tile_model, evaluation=judged)
    assert of_training.startswith(b"<!doctype html>")
    assert b"Training report" in of_training
    assert b"Evaluation report" in of_evaluation
    assert judged.name.encode() in of_evaluation
    for page in (of_training, of_evaluation):
        assert page.endswith(b"</html>\n")
        assert b"test/crack/00" in page
        assert not re.search(rb"<(script|link|iframe)|src=\"(?!data:image/)|href=|url\(", page)
        assert len(page) < 3 << 20
    folder = stack_data / "store" / Path(tile_model.replace("/versions", ""))
    evaluation = folder / "evaluations" / judged.name.removeprefix("jobs/")
    assert evaluation.joinpath("report.html").read_bytes() == of_evaluation
    for kept in (folder / "report", evaluation):
        names = {file.name for file in kept.iterdir()}
        assert {
            "roc.png",
            "scores.png",
            "classes.png",
            "worst-1.png",
            "best-1.png",
            "metrics.json",
        } <= names
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "report/report.html" in manifest["sha256"]
    with pytest.raises(NotFound, match=f"no report of an evaluation by jobs/other.*{judged.name}"):
        client.report(tile_model, evaluation="other")
    with pytest.raises(InvalidArgument, match="not a name in jobs/"):
        client.report(tile_model, evaluation="../../report")
    with pytest.raises(InvalidArgument, match="is not a model"):
        client.report("../tile")


def test_damaged_images_are_named_and_skipped(
    client: Client, surfaces: Path, stack_data: Path, tile_model: str
) -> None:
    client.import_dataset("worn", str(surfaces / "tile"))
    folder = stack_data / "store" / "datasets" / "worn"
    for path in ("train/good/003.png", "test/oil/001.png"):
        data = (folder / path).read_bytes()
        (folder / path).write_bytes(data[: len(data) // 2])
    job = client.wait(client.train("worn", detector=PatchCore(input_size=64)))
    assert job.state == JOB_STATE_SUCCEEDED, job.error
    notes = "\n".join(job.warnings)
    assert (
        "1 of 24 train images of datasets/worn cannot be read and was skipped: train/good/003.png" in notes
    )
    assert "1 of 14 test images of datasets/worn cannot be read and was skipped: test/oil/001.png" in notes
    card = client.model("worn-patchcore")
    assert card.split.skipped == 1
    assert (card.split.learned, card.split.held_out) == (23, 23)
    assert (card.metrics.skipped_images, card.metrics.defective_images) == (1, 7)
    assert b"train/good/003.png" in client.report("worn-patchcore")
    (folder / "test/oil/000.png").unlink()
    evaluated = client.wait(client.evaluate("worn-patchcore", "worn"))
    assert evaluated.state == JOB_STATE_FAILED
    assert "2 of 14 test images" in evaluated.error
    assert "test/oil/000.png, test/oil/001.png" in evaluated.error
    indexed = client.wait(client.embed("tile", "worn"))
    assert indexed.state == JOB_STATE_FAILED


def test_watching_shows_the_phases_to_the_end(client: Client, surfaces: Path, tile_model: str) -> None:
    client.import_dataset("grid", str(surfaces / "grid"))
    job = client.train("grid", detector=PatchCore(input_size=64), target_false_reject_rate=0.01)
    seen: list[Job] = list(client.watch(job))
    assert seen[-1].state == JOB_STATE_SUCCEEDED
    assert [job.revision for job in seen] == sorted({job.revision for job in seen})
    assert [phase.name for phase in seen[-1].phases] == [
        "check",
        "copies",
        "features",
        "calibration",
        "coreset",
        "supports",
        "evaluation",
        "openvino",
        "publish",
    ]
    assert all(phase.done == phase.total > 0 for phase in seen[-1].phases)
    assert seen[-1].result.model_version == "models/grid-patchcore/versions/1"
    assert "24 held-out good images only support" in seen[-1].warnings[0]


def test_repeated_request_is_one_job(client: Client, tile_model: str) -> None:
    request_id = f"once-{uuid4()}"
    first = client.evaluate("tile", "tile", request_id=request_id)
    again = client.evaluate("tile", "tile", request_id=request_id)
    assert again.name == first.name
    with pytest.raises(AlreadyExists, match="from a different request"):
        client.embed("tile", "tile", request_id=request_id)
    client.wait(first)


def test_jobs_are_listed_newest_first(client: Client, tile_model: str) -> None:
    job = client.wait(client.evaluate("tile", "tile"))
    jobs = list(client.jobs())
    assert jobs[0].name == job.name
    times = [job.create_time.ToDatetime() for job in jobs]
    assert times == sorted(times, reverse=True)
    assert all(job.state == JOB_STATE_SUCCEEDED for job in client.jobs(states=[JOB_STATE_SUCCEEDED]))


def test_running_job_is_cancelled_and_leaves_nothing(
    client: Client, tile_model: str, stack_data: Path
) -> None:
    versions = len(next(model for model in client.models() if model.name == "models/tile").versions)
    big = PatchCore(input_size=512, coreset_ratio=0.5)
    job = client.train("tile", model_id="tile", detector=big)
    for seen in client.watch(job):
        if seen.state == JOB_STATE_RUNNING and seen.phases:
            break
    began = time.monotonic()
    assert client.cancel(job).state == JOB_STATE_CANCELLING
    assert client.wait(job).state == JOB_STATE_CANCELLED
    assert time.monotonic() - began < 30
    assert len(next(model for model in client.models() if model.name == "models/tile").versions) == versions
    assert not list((stack_data / "store" / "models").rglob(".staging*"))


def test_waiting_job_is_cancelled_at_once(client: Client, tile_model: str) -> None:
    slow = client.train("tile", model_id="slow", detector=PatchCore(input_size=256))
    waiting = client.train("tile", model_id="waiting")
    assert client.cancel(waiting).state == JOB_STATE_CANCELLED
    client.cancel(slow)
    client.wait(slow)
    assert "models/waiting" not in {model.name for model in client.models()}


def test_promotion_changes_the_next_answer(client: Client, surfaces: Path, tile_model: str) -> None:
    query = image(surfaces, "test/good/001.png")
    trained = client.wait(client.train("tile", model_id="promoted", detector=PatchCore(input_size=64)))
    client.wait(client.train("tile", model_id="promoted", detector=PatchCore(input_size=64, neighbors=3)))
    assert client.score(query, "promoted").model_version.endswith("/2")
    with pytest.raises(NotFound, match="no version of promoted is in production"):
        client.score(query, "promoted@production")
    client.promote(trained.result.model_version)
    assert client.score(query, "promoted").model_version.endswith("/1")
    assert client.score(query, "promoted/latest").model_version.endswith("/2")
    assert client.pin("promoted/latest").name.endswith("/2")
    assert client.promote("promoted/latest").name.endswith("/2")
    client.promote(trained.result.model_version)
    with pytest.raises(NotFound, match="has no index yet"):
        list(client.search(query, "promoted"))


def test_promotion_keeps_the_threshold_of_a_person_or_asks(
    client: Client, surfaces: Path, tile_model: str
) -> None:
    """The model of the test before has two versions, of which the first is in production."""
    query, first = image(surfaces, "test/good/001.png"), "models/promoted/versions/1"
    trained = client.model(first).calibration
    fixed = trained.threshold + 0.5
    client.update_calibration(first, author="ann", threshold=fixed)
    with pytest.raises(FailedPrecondition, match=r"threshold .* \(fixed by ann\)") as refused:
        client.promote("promoted/2")
    assert refused.value.reason == CONFIRMATION_NEEDED
    assert client.score(query, "promoted").threshold == pytest.approx(fixed)
    kept = client.promote("promoted/2", keep_target=True, author="bea")
    expected = client.model(first).calibration.warranted_false_reject_rate
    assert kept.calibration.target_false_reject_rate == pytest.approx(expected)
    assert (kept.production, kept.calibration.author) == (True, "bea")
    assert client.score(query, "promoted").threshold == pytest.approx(kept.calibration.threshold)
    assert client.promote("promoted/1").calibration.threshold == pytest.approx(fixed)


def test_uploaded_images_are_stored_once(client: Client, surfaces: Path) -> None:
    id = f"up-{uuid4().hex[:8]}"
    client.create_dataset(id, category="tile")
    first = client.upload(id, surfaces / "tile")
    assert first.stored == 24 + 14 + 8
    assert first.dataset.train_images == 24
    assert {c.class_name: c.images for c in first.dataset.test_images}["good"] == 6
    assert client.upload(id, surfaces / "tile").unchanged == 24 + 14 + 8
    client.import_dataset("tile", str(surfaces / "tile"))
    assert first.dataset.snapshot == client.dataset("tile").snapshot
    with pytest.raises(AlreadyExists):
        client.create_dataset(id)


def test_jobs_that_cannot_succeed_are_refused_immediately(client: Client, tile_model: str) -> None:
    empty = f"empty-{uuid4().hex[:8]}"
    client.create_dataset(empty)
    with pytest.raises(FailedPrecondition, match="at least 2"):
        client.train(empty)
    with pytest.raises(FailedPrecondition, match="no images in test"):
        client.embed("tile", empty)
    with pytest.raises(NotFound, match="no dataset"):
        client.train("nonesuch")
    with pytest.raises(NotFound, match="no model"):
        client.evaluate("nonesuch", "tile")
    with pytest.raises(InvalidArgument, match="timm has no model"):
        client.train("tile", detector=PatchCore(backbone="nonesuch"))
    with pytest.raises(InvalidArgument, match="input_size is 5000"):
        client.train("tile", detector=PatchCore(input_size=5000))
    with pytest.raises(InvalidArgument, match="is not a valid id"):
        client.train("tile", model_id="../tile")


def test_missing_weights_are_reported_with_the_command_at_submission(
    client: Client, tile_model: str
) -> None:
    with pytest.raises(FailedPrecondition, match="`blemish weights import resnet18 FILE`"):
        client.train("tile", model_id="r", detector=PatchCore(backbone="resnet18"))
    assert not [job for job in client.jobs() if job.train.model_id == "r"]


def test_server_describes_itself(client: Client, tile_model: str) -> None:
    info = client.server_info()
    assert {(known.name, known.available) for known in info.dependencies} == {
        ("redis", True),
        ("qdrant", True),
    }
    assert info.limits.max_image_bytes == 2 << 20
    assert info.detectors == ["efficientad", "patchcore"]


def test_bundle_contains_no_pickle(stack_data: Path, tile_model: str) -> None:
    folder = stack_data / "store" / Path(tile_model.replace("/versions", ""))
    names = {file.name for file in folder.iterdir()} - {"evaluations"}
    assert names == {"manifest.json", "weights.safetensors", "openvino", "report"}
    assert {file.suffix for file in (folder / "openvino").iterdir()} == {".xml", ".bin"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["split"] == {
        "learned": 24,
        "held_out": 24,
        "method": "cross-calibration",
        "skipped": 0,
    }


def test_efficientad_is_trained_and_scores(
    client: Client, stack_data: Path, surfaces: Path, tile_model: str
) -> None:
    generate(surfaces / "few", "tile", train=3, good=1, defective=1, size=96)
    client.import_dataset("few", str(surfaces / "few"))
    # The solved start takes half a minute here and is tested in tests/core/detectors.
    job = client.wait(client.train("few", detector=EfficientAd(max_steps=1, start="random")))
    assert job.error == ""
    assert job.result.model_version == "models/few-efficientad/versions/1"
    phases = [phase.name for phase in job.phases]
    assert phases[1:4] == ["copies", "teacher", "training"]
    kept = stack_data / "store" / "checkpoints" / job.name.removeprefix("jobs/")
    give_up = time.monotonic() + 30  # removed shortly after the job has ended
    while kept.exists():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    card = client.model("few-efficientad")
    assert card.training["teacher"] == "distilled by blemish"
    assert card.training["steps"] == "1"
    image = next((surfaces / "tile/test/good").iterdir()).read_bytes()
    inspection = client.score(image, "few-efficientad", anomaly_map=True)
    assert (inspection.anomaly_map.width, inspection.anomaly_map.height) == (256, 256)
    assert inspection.model_version == card.name


def test_another_backbone_is_imported_and_trained_on(
    client: Client, stack_data: Path, surfaces: Path, tile_model: str, tmp_path: Path
) -> None:
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "resnet34.pth")
    store = ["--store", str(stack_data / "store")]
    command = ["import", "resnet34", str(tmp_path / "resnet34.pth"), *store]
    assert CliRunner().invoke(weights_app, command).exit_code == 0
    settings = PatchCore(backbone="resnet34", input_size=64, coreset_ratio=0.02, neighbors=3)
    job = client.wait(client.train("tile", model_id="resnet", detector=settings))
    assert job.error == ""
    card = client.model("resnet")
    assert (card.settings["backbone"], card.settings["neighbors"]) == ("resnet34", "3")
    assert client.score(image(surfaces, "test/good/000.png"), "resnet").score > 0
