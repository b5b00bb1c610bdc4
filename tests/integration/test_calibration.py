# SPDX-License-Identifier: Apache-2.0
"""A changed calibration applies to the next frame, on every server of a store and in jobs."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from PIL import Image

from blemish.v1 import model_pb2
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.job_pb2 import PatchCore
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish_client import Client, Store
from blemish_client.errors import (
    CONFIRMATION_NEEDED,
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from blemish_core.models.bundle import read_manifest
from blemish_core.models.calibration_log import CalibrationChange, CalibrationLog, ThresholdRule

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack


@pytest.fixture(scope="module")
def version(stack: RunningStack, tile_model: str) -> str:
    """Make a separate version, so that its thresholds affect no other test."""
    with Client(stack.address) as client:
        job = client.wait(client.train("tile", model_id="line", detector=PatchCore(input_size=64)))
        assert job.error == ""
        return job.result.model_version


@pytest.fixture
def query(surfaces: Path) -> bytes:
    return (surfaces / "tile" / "test/good/000.png").read_bytes()


@pytest.fixture(autouse=True)
def as_trained(client: Client, version: str) -> Iterator[None]:
    yield
    client.update_calibration(version, author="the test", trained=True)


def test_threshold_applies_to_the_next_frame_without_a_reload(
    client: Client, version: str, query: bytes
) -> None:
    before = client.score(query, version)
    loaded = list(client.server_info().loaded_models)
    assert version in loaded
    for threshold, verdict in ((before.score / 2, VERDICT_ANOMALOUS), (2 * before.score, VERDICT_NORMAL)):
        card = client.update_calibration(
            version, author="ann", threshold=threshold, acknowledge_extreme=True
        )
        after = client.score(query, version, anomaly_map=True)
        assert after.verdict == verdict
        assert after.threshold == pytest.approx(threshold)
        assert after.calibration_revision == card.calibration.revision > before.calibration_revision
        assert after.score == pytest.approx(before.score, rel=1e-4)
        assert after.p_value == before.p_value  # of the held-out images, not of the threshold
        assert after.anomaly_map.threshold == pytest.approx(card.calibration.pixel_threshold)
    assert list(client.server_info().loaded_models) == loaded
    client.update_calibration(version, author="ann", trained=True)
    back = client.score(query, version)
    assert (back.threshold, back.verdict) == (before.threshold, before.verdict)


def test_card_names_author_and_time(client: Client, version: str) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    trained = client.model(version)
    client.update_calibration(
        version, author="ann", target_false_reject_rate=0.4, comment="too many escapes"
    )
    card = client.update_calibration(version, author="bea", threshold=24.5, acknowledge_extreme=True)
    assert card == client.model(version)
    now, before = card.calibration_history[:2]
    assert card.calibration == now
    assert (now.rule, now.author, now.threshold) == (model_pb2.THRESHOLD_RULE_FIXED, "bea", 24.5)
    assert now.target_false_reject_rate == 0
    assert now.warranted_false_reject_rate == (now.held_out_above + 1) / (now.held_out_images + 1)
    assert (before.author, before.comment) == ("ann", "too many escapes")
    assert before.rule == model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE
    assert (before.target_false_reject_rate, before.held_out_above) == (0.4, 9)  # 10 of 25 may lie above
    assert before.threshold < trained.calibration.threshold
    assert before.false_reject_rate_interval.lower < 10 / 25 < before.false_reject_rate_interval.upper
    first = card.calibration_history[-1]
    assert (first.revision, first.author) == (1, trained.job)
    assert first.update_time == card.create_time
    for changed in (now, before):
        assert began <= changed.update_time.ToDatetime(UTC) <= datetime.now(UTC) + timedelta(seconds=1)
    revisions = [calibration.revision for calibration in card.calibration_history]
    assert revisions == list(range(now.revision, 0, -1))
    listed = next(model for model in client.models() if model.name == "models/line").versions[0]
    assert listed.calibration == now
    assert not listed.calibration_history


def test_card_and_report_have_the_figures_of_the_new_threshold(client: Client, version: str) -> None:
    trained = client.model(version)
    assert trained.metrics.threshold == trained.calibration.threshold
    card = client.update_calibration(version, author="ann", threshold=1e6, acknowledge_extreme=True)
    figures = card.metrics
    assert (figures.threshold, figures.false_reject_rate, figures.detection_rate) == (1e6, 0, 0)
    assert figures.regions_threshold == trained.calibration.threshold
    assert figures.image_auroc == trained.metrics.image_auroc
    listed = next(model for model in client.models() if model.name == "models/line").versions[0]
    assert listed.metrics == figures
    page = client.report(version).decode()
    assert "Now judged by threshold 1e+06" in page
    assert "good images rejected at threshold" in page
    assert client.update_calibration(version, author="ann", trained=True).metrics == trained.metrics


def test_calibration_by_another_process_applies_to_the_next_frame(
    client: Client, version: str, query: bytes, stack_data: Path
) -> None:
    client.score(query, version)  # the server has read the earlier revision
    folder = stack_data / "store" / version.replace("/versions", "")
    log = CalibrationLog(folder, read_manifest(folder))
    for threshold in (0.5, 900.0, 0.25):
        revision = log.append(CalibrationChange(ThresholdRule.FIXED, "another server", threshold))
        told = client.score(query, version)
        assert (told.threshold, told.calibration_revision) == (threshold, revision.number)


def test_later_jobs_use_the_new_calibration(client: Client, version: str) -> None:
    client.update_calibration(version, author="ann", threshold=0.0, acknowledge_extreme=True)
    strict = client.wait(client.evaluate(version, "tile")).result.metrics
    assert (strict.false_reject_rate, strict.detection_rate) == (1, 1)
    client.update_calibration(version, author="ann", threshold=1e6, acknowledge_extreme=True)
    lax = client.wait(client.evaluate(version, "tile")).result.metrics
    assert (lax.false_reject_rate, lax.detection_rate) == (0, 0)


def test_search_uses_the_new_calibration_for_its_query(client: Client, version: str, query: bytes) -> None:
    client.update_calibration(version, author="ann", threshold=1e6, acknowledge_extreme=True)
    assert client.wait(client.embed(version, "tile")).error == ""
    card = client.update_calibration(version, author="ann", threshold=0.0, acknowledge_extreme=True)
    found = client.search(query, version, limit=20)
    assert found.query is not None
    assert found.query.verdict == VERDICT_ANOMALOUS
    assert found.query.calibration_revision == card.calibration.revision
    # Indexed images keep the verdict of the calibration at the time of indexing.
    assert {hit.verdict for hit in found} == {VERDICT_NORMAL}


def test_stream_survives_fifty_changes(
    client: Client, version: str, query: bytes, stack_address: str
) -> None:
    first = client.score(query, version)
    done = threading.Event()

    def score() -> list[Inspection]:
        answers = []
        with Client(stack_address) as camera:
            while not done.is_set():
                answers.append(camera.score(query, version))
        return answers

    with ThreadPoolExecutor(3) as pool:
        cameras = [pool.submit(score) for _ in range(3)]
        thresholds = {first.calibration_revision: first.threshold}
        try:
            for change in range(50):
                threshold = first.score + (1 if change % 2 else -1)
                card = client.update_calibration(
                    version, author="ann", threshold=threshold, acknowledge_extreme=True
                )
                thresholds[card.calibration.revision] = card.calibration.threshold
                told = client.score(query, version)
                assert told.calibration_revision == card.calibration.revision
                assert told.verdict == (VERDICT_NORMAL if change % 2 else VERDICT_ANOMALOUS)
        finally:
            done.set()
        streams = [camera.result() for camera in cameras]
    for answers in streams:
        assert answers
        seen = [answer.calibration_revision for answer in answers]
        assert seen == sorted(seen)
        for answer in answers:
            assert answer.threshold == pytest.approx(thresholds[answer.calibration_revision])
            anomalous = answer.score > answer.threshold
            assert answer.verdict == (VERDICT_ANOMALOUS if anomalous else VERDICT_NORMAL)


def test_concurrent_writers_lose_nothing(client: Client, version: str, stack_address: str) -> None:
    before = client.model(version).calibration.revision

    def write(author: str) -> None:
        with Client(stack_address) as writer:
            for threshold in range(10):
                writer.update_calibration(
                    version, author=author, threshold=float(threshold), acknowledge_extreme=True
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    history = client.model(version).calibration_history
    assert history[0].revision == before + 40
    assert sorted(calibration.author for calibration in history[:40]) == sorted("abcd" * 10)


def test_change_based_on_an_outdated_revision_is_refused(client: Client, version: str) -> None:
    seen = client.model(version).calibration.revision
    client.update_calibration(version, author="ann", target_false_reject_rate=0.3, expected_revision=seen)
    with pytest.raises(Aborted, match=f"at revision {seen + 1}, not {seen}") as caught:
        client.update_calibration(version, author="bea", threshold=4.0, expected_revision=seen)
    assert caught.value.reason == "OUTDATED"
    assert client.model(version).calibration.author == "ann"


def test_threshold_that_rejects_all_or_nothing_has_to_be_confirmed(client: Client, version: str) -> None:
    before = client.model(version).calibration
    for threshold, reason in ((1e9, "it detects none of"), (-5.0, "rejects all"), (0.0, "rejects all")):
        with pytest.raises(FailedPrecondition, match=reason) as caught:
            client.update_calibration(version, author="ann", threshold=threshold)
        assert caught.value.reason == CONFIRMATION_NEEDED
        assert client.model(version).calibration == before
        card = client.update_calibration(
            version, author="ann", threshold=threshold, acknowledge_extreme=True
        )
        assert card.calibration.threshold == threshold
        with pytest.raises(FailedPrecondition):
            client.update_calibration(version, author="ann", revision=card.calibration.revision)
        before = client.update_calibration(version, author="ann", revision=before.revision).calibration


def test_preview_shows_figures_and_flips_and_changes_nothing(
    client: Client, version: str, query: bytes
) -> None:
    # An image of the dataset would keep its place there when a camera sends it.
    frame = Image.open(io.BytesIO(query)).transpose(Image.Transpose.ROTATE_180)
    kept = client.score(frame, version, store=Store.ALL)
    before = client.model(version)
    deadline = time.monotonic() + 20
    while (preview := client.preview_calibration(version, threshold=0.0)).flipped.kept == 0:
        assert time.monotonic() < deadline, preview.flipped.unavailable
        time.sleep(0.2)
    assert "rejects all" in preview.concern
    assert preview.before == before.calibration
    assert (preview.after.threshold, preview.after.revision) == (0.0, before.calibration.revision + 1)
    assert preview.metrics_before == before.metrics
    assert (preview.metrics_after.false_reject_rate, preview.metrics_after.detection_rate) == (1, 1)
    flips = preview.flipped
    assert (flips.kept, flips.to_anomalous, flips.to_normal) == (1, 1, 0)
    assert flips.frames[0].score == pytest.approx(kept.score)
    milder = client.preview_calibration(version, target_false_reject_rate=0.2)
    assert milder.concern == ""
    assert client.model(version) == before


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "rate 0": ({"target_false_reject_rate": 0.0}, "target_false_reject_rate", "above 0 and at most 0.5"),
    "rate 0.7": ({"target_false_reject_rate": 0.7}, "target_false_reject_rate", "above 0 and at most 0.5"),
    "rate NaN": (
        {"target_false_reject_rate": math.nan},
        "target_false_reject_rate",
        "above 0 and at most 0.5",
    ),
    "threshold NaN": ({"threshold": math.nan}, "threshold", "finite"),
    "threshold inf": ({"threshold": math.inf}, "threshold", "finite"),
    "threshold beyond float32": ({"threshold": 1e300}, "threshold", "finite"),
    "no author": ({"threshold": 3.0, "author": ""}, "author", "author is empty"),
    "an author that clears screens": (
        {"threshold": 3.0, "author": "\x1b[2J"},
        "author",
        "one line of text",
    ),
    "a comment like a book": ({"threshold": 3.0, "comment": "x" * 1001}, "comment", "at most 1000"),
    "a revision before the first": (
        {"threshold": 3.0, "expected_revision": -1},
        "expected_revision",
        "count from 1",
    ),
    "an alias": ({"threshold": 3.0, "version": "line"}, "name", "is not a fixed version"),
    "a path": ({"threshold": 3.0, "version": "../line/1"}, "name", "is not a model"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_changes_are_refused_and_change_nothing(client: Client, version: str, name: str) -> None:
    request, field, reason = BAD[name]
    before = client.model(version).calibration
    with pytest.raises(InvalidArgument, match=reason) as caught:
        client.update_calibration(**{"version": version, "author": "ann"} | request)
    assert caught.value.field == field
    assert client.model(version).calibration == before


def test_request_without_a_change_is_refused(stack_address: str, version: str) -> None:
    with grpc.insecure_channel(stack_address, [("grpc.enable_http_proxy", 0)]) as channel:
        request = model_pb2.UpdateCalibrationRequest(name=version, author="ann")
        with pytest.raises(grpc.RpcError) as caught:
            ModelServiceStub(channel).UpdateCalibration(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "contains no change" in (caught.value.details() or "")


def test_calibration_of_an_unknown_version_is_not_found(client: Client, version: str) -> None:
    with pytest.raises(NotFound, match="no version 99"):
        client.update_calibration("line/99", author="ann", threshold=3.0)
    with pytest.raises(NotFound, match="no model"):
        client.update_calibration("nonesuch/1", author="ann", threshold=3.0)
