# SPDX-License-Identifier: Apache-2.0
"""Metrics of calls and inspections."""

import pytest
from tests.support.inspections import make_calibration, make_capture, make_inspection
from tests.support.metrics import scrape, value

from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import Consensus
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.scoring.batcher import Timings
from blemish_server.scoring.inspection import Inspection

VERSION = ModelRef("tile", 3)
LABELS = {"model": "tile", "version": "3"}


def inspection(score: float, *, above: int = 0, of: int = 199, camera: str = "") -> Inspection:
    """Return an inspection, anomalous above 1, that ``above`` of the held-out images exceed."""
    scores = sorted((*[0.0] * (of - above), *[9.0] * above))
    return make_inspection(
        score,
        version=VERSION,
        calibration=make_calibration(scores=tuple(scores)),
        capture=make_capture(camera=camera),
    )


def test_images_are_counted_by_verdict_p_value_and_stage() -> None:
    metrics = ServerMetrics()
    for score, above, queue_s in ((0.5, 119, 0.02), (0.9, 15, 0.02), (2.0, 0, 0.2)):
        calibration = inspection(score, above=above).calibration
        timings = Timings(queue_s=queue_s, decode_s=0.004, inference_s=0.3)
        metrics.observe(make_inspection(score, version=VERSION, calibration=calibration, timings=timings))
    samples = scrape(metrics.registry)
    assert value(samples, "blemish_inspections_total", **LABELS, verdict="normal") == 2
    assert value(samples, "blemish_inspections_total", **LABELS, verdict="anomalous") == 1
    below = [
        value(samples, "blemish_p_value_bucket", **LABELS, le=le) for le in ("0.001", "0.01", "0.1", "1.0")
    ]
    assert below == [0, 1, 2, 3]
    queue = {"name": "blemish_inspection_seconds_bucket", **LABELS, "stage": "queue"}
    assert [value(samples, **queue, le=le) for le in ("0.01", "0.025", "0.25")] == [0, 2, 3]
    sums = {
        stage: value(samples, "blemish_inspection_seconds_sum", **LABELS, stage=stage)
        for stage in ("queue", "decode", "inference")
    }
    assert sums == pytest.approx({"queue": 0.24, "decode": 0.012, "inference": 0.9})


def test_named_cameras_have_their_own_counts() -> None:
    metrics = ServerMetrics()
    for camera, score, above in (
        ("left", 0.5, 119),
        ("left", 0.9, 49),
        ("left", 2.0, 9),
        ("right", 0.5, 51),
        ("", 2.0, 9),
    ):
        metrics.observe(inspection(score, above=above, camera=camera))
    samples = scrape(metrics.registry)
    cameras = {
        camera: (
            value(samples, "blemish_camera_inspections_total", camera=camera, verdict="normal"),
            value(samples, "blemish_camera_inspections_total", camera=camera, verdict="anomalous"),
            value(samples, "blemish_camera_low_p_values_total", camera=camera),
        )
        for camera in ("left", "right")
    }
    assert cameras == {"left": (2, 1, 2), "right": (1, 0, 0)}
    assert {dict(labels).get("camera") for _, labels in samples} == {None, "left", "right"}


def test_number_of_cameras_is_bounded() -> None:
    metrics = ServerMetrics()
    for number in range(1000):
        metrics.observe(inspection(0.5, camera=f"frame-{number}"))
    metrics.observe(inspection(0.5, camera="frame-3"))
    samples = scrape(metrics.registry)
    assert len({dict(labels).get("camera") for _, labels in samples} - {None}) == 257
    name = "blemish_camera_inspections_total"
    assert value(samples, name, camera="(others)", verdict="normal") == 744
    assert value(samples, name, camera="frame-3", verdict="normal") == 2


@pytest.mark.parametrize(
    ("takes_stream", "sends_stream", "kind"),
    [
        (False, False, "unary"),
        (False, True, "server_stream"),
        (True, False, "client_stream"),
        (True, True, "bidi_stream"),
    ],
)
def test_calls_are_counted_at_their_start_and_by_status(
    takes_stream: bool, sends_stream: bool, kind: str
) -> None:
    metrics = ServerMetrics()
    method = "/blemish.v1.SearchService/Search"
    started = [
        metrics.call_began(method, takes_stream=takes_stream, sends_stream=sends_stream) for _ in range(3)
    ]
    started[0]("OK", 0.2)
    started[1]("NOT_FOUND", 0.02)
    samples = scrape(metrics.registry)
    labels = {"grpc_type": kind, "grpc_service": "blemish.v1.SearchService", "grpc_method": "Search"}
    assert value(samples, "grpc_server_started_total", **labels) == 3
    assert value(samples, "grpc_server_handled_total", **labels, grpc_code="OK") == 1
    assert value(samples, "grpc_server_handled_total", **labels, grpc_code="NOT_FOUND") == 1
    assert value(samples, "grpc_server_handling_seconds_sum", **labels) == pytest.approx(0.22)


def test_refused_frames_are_counted_by_reason() -> None:
    metrics = ServerMetrics()
    for reason in ("OVERLOADED", "INVALID_IMAGE", "OVERLOADED"):
        metrics.refused(reason)
    samples = scrape(metrics.registry)
    assert value(samples, "blemish_refused_frames_total", reason="OVERLOADED") == 2
    assert value(samples, "blemish_refused_frames_total", reason="INVALID_IMAGE") == 1


def test_names_of_defects_and_reads_of_labels_are_counted_by_version() -> None:
    metrics = ServerMetrics()
    for consensus in (Consensus.MAJORITY, Consensus.MAJORITY, Consensus.UNAVAILABLE):
        metrics.named(VERSION, consensus, 0.002)
    metrics.labels_read(VERSION, 0.03, succeeded=True)
    metrics.labels_read(VERSION, 10.0, succeeded=False)
    samples = scrape(metrics.registry)
    classes = {"name": "blemish_defect_classes_total", **LABELS}
    assert value(samples, **classes, consensus="majority") == 2
    assert value(samples, **classes, consensus="unavailable") == 1
    naming = {"name": "blemish_defect_class_seconds_bucket", **LABELS}
    assert [value(samples, **naming, le=le) for le in ("0.001", "0.0025")] == [0, 3]
    reads = {"name": "blemish_label_reads_total", **LABELS}
    assert [value(samples, **reads, outcome=outcome) for outcome in ("succeeded", "failed")] == [1, 1]
    assert value(samples, "blemish_label_read_seconds_sum", **LABELS) == pytest.approx(10.03)
