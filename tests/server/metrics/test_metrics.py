# SPDX-License-Identifier: Apache-2.0
"""What is counted, as Prometheus reads it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from blemish.v1 import inspection_pb2 as pb
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_server.dependencies import Known
from blemish_server.metrics.metrics import ServerMetrics, Streams
from blemish_server.metrics.metrics_server import Held
from blemish_server.scoring.frame_queue import FrameQueue, FrameSlot
from blemish_server.scoring.shadow import Comparison, Outcome

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def told(registry: CollectorRegistry) -> Samples:
    """Every sample by its name and labels, without those of the process."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not family.name.startswith("process")
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def inspected(score: float, *, p_value: float, queue_s: float = 0.02) -> Any:
    """Of version 3 of a model, anomalous above 1."""
    judge = SimpleNamespace(anomalous=lambda score: score > 1, p_value=lambda score: p_value)
    return SimpleNamespace(
        outcome=SimpleNamespace(score=score),
        manifest=SimpleNamespace(model="tile", version=3),
        calibration=SimpleNamespace(calibration=judge),
        queue_s=queue_s,
        decode_s=0.004,
        inference_s=0.3,
    )


def test_images_are_counted_by_verdict_p_value_and_where_their_time_went() -> None:
    monitor = ServerMetrics()
    for score, p_value, queue_s in ((0.5, 0.6, 0.02), (0.9, 0.08, 0.02), (2.0, 0.004, 0.2)):
        monitor.judged(inspected(score, p_value=p_value, queue_s=queue_s))
    samples = told(monitor.registry)
    of = {"model": "tile", "version": "3"}
    assert value(samples, "blemish_inspections_total", **of, verdict="normal") == 2
    assert value(samples, "blemish_inspections_total", **of, verdict="anomalous") == 1
    below = [
        value(samples, "blemish_p_value_bucket", **of, le=le) for le in ("0.001", "0.01", "0.1", "1.0")
    ]
    assert below == [0, 1, 2, 3]
    waited = {"name": "blemish_inspection_seconds_bucket", **of, "stage": "queue"}
    assert [value(samples, **waited, le=le) for le in ("0.01", "0.025", "0.25")] == [0, 2, 3]
    spent = {
        stage: value(samples, "blemish_inspection_seconds_sum", **of, stage=stage)
        for stage in ("queue", "decode", "inference")
    }
    assert spent == pytest.approx({"queue": 0.24, "decode": 0.012, "inference": 0.9})


def test_each_camera_with_a_name_has_its_counts() -> None:
    monitor = ServerMetrics()
    for camera, score, p_value in (
        ("left", 0.5, 0.6),
        ("left", 0.9, 0.25),
        ("left", 2.0, 0.05),
        ("right", 0.5, 0.26),
        ("", 2.0, 0.05),
    ):
        monitor.judged(inspected(score, p_value=p_value), camera)
    samples = told(monitor.registry)
    cameras = {
        camera: (
            value(samples, "blemish_camera_inspections_total", camera=camera, verdict="normal"),
            value(samples, "blemish_camera_inspections_total", camera=camera, verdict="anomalous"),
            value(samples, "blemish_camera_low_p_values_total", camera=camera),
        )
        for camera in ("left", "right")
    }
    assert cameras == {"left": (2, 1, 2), "right": (1, 0, 0)}
    named = {dict(labels).get("camera") for _, labels in samples}
    assert named == {None, "left", "right"}


def test_names_made_up_for_each_frame_take_no_more_room() -> None:
    monitor = ServerMetrics()
    for number in range(1000):
        monitor.judged(inspected(0.5, p_value=0.1), f"frame-{number}")
    monitor.judged(inspected(0.5, p_value=0.1), "frame-3")
    samples = told(monitor.registry)
    assert len({dict(labels).get("camera") for _, labels in samples} - {None}) == 257
    of = {"verdict": "normal"}
    assert value(samples, "blemish_camera_inspections_total", camera="(others)", **of) == 744
    assert value(samples, "blemish_camera_inspections_total", camera="frame-3", **of) == 2


@pytest.mark.parametrize(
    ("takes_stream", "sends_stream", "kind"),
    [
        (False, False, "unary"),
        (False, True, "server_stream"),
        (True, False, "client_stream"),
        (True, True, "bidi_stream"),
    ],
)
def test_calls_are_counted_as_they_begin_and_by_how_they_end(
    takes_stream: bool,
    sends_stream: bool,
    kind: str,
) -> None:
    monitor = ServerMetrics()
    method = "/blemish.v1.SearchService/Search"
    begin = [
        monitor.call_began(method, takes_stream=takes_stream, sends_stream=sends_stream) for _ in range(3)
    ]
    begin[0]("OK", 0.2)
    begin[1]("NOT_FOUND", 0.02)
    samples = told(monitor.registry)
    of = {"grpc_type": kind, "grpc_service": "blemish.v1.SearchService", "grpc_method": "Search"}
    assert value(samples, "grpc_server_started_total", **of) == 3
    assert value(samples, "grpc_server_handled_total", **of, grpc_code="OK") == 1
    assert value(samples, "grpc_server_handled_total", **of, grpc_code="NOT_FOUND") == 1
    assert value(samples, "grpc_server_handling_seconds_sum", **of) == pytest.approx(0.22)


async def never(turn: FrameSlot) -> pb.ScoreStreamResponse:
    raise AssertionError("no frame is scored here")


def of_streams(streams: Streams) -> dict[str, dict[str, float]]:
    """What is told of them, by policy."""
    return {
        family.name: {sample.labels["policy"]: sample.value for sample in family.samples}
        for family in streams.families()
    }


def test_frames_are_counted_while_their_stream_is_open_and_after() -> None:
    streams = Streams()
    camera, other = FrameQueue(never, pb.STREAM_POLICY_LATEST), FrameQueue(never, pb.STREAM_POLICY_LATEST)
    strict = FrameQueue(never, pb.STREAM_POLICY_REJECT)
    with streams.opened(other):
        with streams.opened(camera), streams.opened(strict):
            camera.frames, camera.dropped = 10, 4
            strict.frames, strict.rejected = 5, 1
            open_now = of_streams(streams)
        other.frames = 1
        then = of_streams(streams)
    assert open_now == {
        "blemish_streams": {"latest": 2, "block": 0, "reject": 1},
        "blemish_streamed_frames": {"latest": 10, "block": 0, "reject": 5},
        "blemish_dropped_frames": {"latest": 4, "block": 0, "reject": 0},
        "blemish_rejected_frames": {"latest": 0, "block": 0, "reject": 1},
    }
    assert then["blemish_streams"] == {"latest": 1, "block": 0, "reject": 0}
    assert then["blemish_streamed_frames"] == {"latest": 11, "block": 0, "reject": 5}
    assert of_streams(streams)["blemish_streamed_frames"] == then["blemish_streamed_frames"]


class Redis:
    """Stands for jobs and workers; says what it was asked."""

    def __init__(self, *, lost: bool = False) -> None:
        self._lost = lost
        self.asked = 0

    def unfinished(self) -> list[Any]:
        self.asked += 1
        if self._lost:
            raise Unavailable("Redis has gone", dependency="redis")
        train, embed = SimpleNamespace(kind="train"), SimpleNamespace(kind="embed")
        told = [(train, "queued"), (train, "running"), (train, "queued"), (embed, "queued")]
        return [SimpleNamespace(spec=spec, state=state) for spec, state in told]

    def ended_counts(self) -> dict[tuple[str, str], int]:
        return {("train", "failed"): 2, ("train", "succeeded"): 40}

    def workers(self) -> list[str]:
        return ["one", "two"]


async def held(redis: Redis, *, available: bool = True) -> Samples:
    """What is told of a server with one model in memory, read in another thread as Prometheus does."""
    model = SimpleNamespace(
        ref=SimpleNamespace(model="tile", version=3),
        detector=SimpleNamespace(runtime=SimpleNamespace(name="openvino")),
        bytes=1000,
        batcher=SimpleNamespace(waiting=7),
    )
    comparison = Comparison(ModelRef("tile", 3), ModelRef("tile", 4))
    comparison.outcomes.update({Outcome.BOTH_ANOMALOUS: 4, Outcome.ONLY_SHADOW: 2})
    states = [Known("redis", available, ""), Known("qdrant", False, "away")]
    parts: Any = {
        "models": SimpleNamespace(loaded=[model]),
        "inspector": SimpleNamespace(waiting_bytes=4096),
        "keeper": SimpleNamespace(kept=5, dropped=2),
        "shadow": SimpleNamespace(comparisons=[comparison]),
        "dependencies": SimpleNamespace(states=states),
        "jobs": redis,
        "staff": redis,
    }
    registry = CollectorRegistry()
    registry.register(Held(asyncio.get_running_loop(), "cpu", streams=Streams(), **parts))
    return await asyncio.to_thread(told, registry)


async def test_what_the_server_holds_is_told_when_asked() -> None:
    samples = await held(Redis())
    of = {"model": "tile", "version": "3"}
    assert value(samples, "blemish_loaded_bytes", **of, runtime="openvino") == 1000
    assert value(samples, "blemish_waiting_images", **of) == 7
    assert value(samples, "blemish_waiting_bytes") == 4096
    assert value(samples, "blemish_kept_frames_total") == 5
    assert value(samples, "blemish_unkept_frames_total") == 2
    outcomes = {"both_normal": 0, "both_anomalous": 4, "only_shadow": 2, "only_production": 0}
    pair = {"model": "tile", "version": "4", "beside": "3"}
    assert {
        name: value(samples, "blemish_shadowed_images_total", **pair, outcome=name) for name in outcomes
    } == outcomes
    assert value(samples, "blemish_dependency_up", dependency="redis") == 1
    assert value(samples, "blemish_dependency_up", dependency="qdrant") == 0
    assert value(samples, "blemish_unfinished_jobs", kind="train", state="queued") == 2
    assert value(samples, "blemish_unfinished_jobs", kind="train", state="running") == 1
    assert value(samples, "blemish_unfinished_jobs", kind="embed", state="queued") == 1
    assert value(samples, "blemish_ended_jobs_total", kind="train", state="failed") == 2
    assert value(samples, "blemish_ended_jobs_total", kind="train", state="succeeded") == 40
    assert value(samples, "blemish_workers") == 2


@pytest.mark.parametrize(("lost", "available", "asked"), [(True, True, 1), (False, False, 0)])
async def test_without_redis_the_rest_is_told(lost: bool, available: bool, asked: int) -> None:
    redis = Redis(lost=lost)
    samples = await held(redis, available=available)
    assert value(samples, "blemish_waiting_bytes") == 4096
    assert not [name for name, _ in samples if name in ("blemish_unfinished_jobs", "blemish_workers")]
    assert redis.asked == asked, "not where it is known to be away: each scrape would wait for it"
