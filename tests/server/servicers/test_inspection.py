# SPDX-License-Identifier: Apache-2.0
"""Scoring by InspectionService: validation before scoring, and the responses of streams."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from grpc import StatusCode
from tests.support.metrics import scrape, value
from tests.support.scorers import FakeNamer, FakeScorer

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import BlemishError, InvalidRequest
from blemish_core.platform.names import ModelRef
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.scoring.shadow import Shadow
from blemish_server.servicers.inspection import InspectionServicer
from blemish_server.transport.connections import StreamLifetime

MODEL = "models/tile/versions/1"
INSPECTIONS = "blemish_inspections_total"
LABELS = {"model": "tile", "version": "1"}


class FakeContext:
    """The context of a call without a deadline."""

    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@dataclass
class FakeSink:
    """A list that inspections are queued to."""

    inspections: list[Inspection] = field(default_factory=list)

    def enqueue(self, inspection: Inspection) -> bool:
        self.inspections.append(inspection)
        return True


class Service:
    """The servicer with stand-ins for the parts that it uses."""

    def __init__(self) -> None:
        self.scorer = FakeScorer()
        self.metrics = ServerMetrics()
        self.recorder = FakeSink()
        self.namer = FakeNamer()
        self.feed = InspectionFeed(self.metrics.activity, ImageLimits(), max_watchers=1)
        pipeline = ScoringPipeline(
            self.scorer.as_scorer(),
            self.metrics,
            cast(FrameRecorder, self.recorder),
            cast(Shadow, FakeSink()),
            self.namer.as_namer(),
            self.feed,
        )
        self.servicer = InspectionServicer(
            pipeline, self.feed, self.metrics, StreamLifetime(asyncio.Event()), MAX_MESSAGE_BYTES
        )

    async def score(self, request: pb.ScoreRequest) -> pb.Inspection:
        context: Any = FakeContext()
        return (await self.servicer.Score(request, context)).inspection

    async def stream(self, config: pb.StreamConfig, *frames: pb.Frame) -> list[pb.ScoreStreamResponse]:
        async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
            yield pb.ScoreStreamRequest(config=config)
            for frame in frames:
                yield pb.ScoreStreamRequest(frame=frame)

        context: Any = FakeContext()
        return [response async for response in self.servicer.ScoreStream(requests(), context)]

    def inspected(self) -> float:
        """Return the number of images that were counted as inspected."""
        return sum(
            count
            for (name, _), count in scrape(self.metrics.registry).items()
            if name == "blemish_inspections_total"
        )


def frame(
    sequence: int, image: bytes = b"2.0", camera: str = "left", seconds: int | None = None
) -> pb.Frame:
    message = pb.Frame(camera=camera, sequence=sequence)
    message.image.encoded = image
    if seconds is not None:
        message.capture_time.seconds = seconds
    return message


def block(**options: Any) -> pb.StreamConfig:
    return pb.StreamConfig(model=MODEL, policy=pb.STREAM_POLICY_BLOCK, **options)


MAX_MESSAGE_BYTES = 1 << 20

YEAR_10000 = 253_402_300_800
INVALID = {
    "capture_time": frame(1, seconds=YEAR_10000),
    "camera": frame(1, camera="c" * 129),
    "name": pb.Frame(camera="left", sequence=1, image=frame(1).image, name="n" * 256),
    "image": frame(1, image=b""),
}


@pytest.mark.parametrize(
    ("field", "store"),
    [
        ("capture_time", pb.STORE_ANOMALOUS),
        ("capture_time", pb.STORE_ALL),
        ("camera", pb.STORE_NONE),
        ("camera", pb.STORE_ALL),
        ("name", pb.STORE_ALL),
        ("image", pb.STORE_NONE),
        ("image", pb.STORE_ALL),
    ],
)
@pytest.mark.parametrize(
    "policy", [pb.STREAM_POLICY_LATEST, pb.STREAM_POLICY_BLOCK, pb.STREAM_POLICY_REJECT]
)
async def test_invalid_frame_of_a_stream_is_refused_before_it_is_scored(
    field: str, policy: pb.StreamPolicy.ValueType, store: pb.Store.ValueType
) -> None:
    service = Service()
    config = pb.StreamConfig(model=MODEL, policy=policy, store=store)
    (response,) = await service.stream(config, INVALID[field])
    code, _ = StatusCode.INVALID_ARGUMENT.value
    assert (response.refusal.code, response.refusal.reason) == (code, "INVALID_REQUEST")
    assert field in response.refusal.message
    assert response.sequence == 1
    assert response.capture_time == INVALID[field].capture_time
    assert service.inspected() == 0
    assert service.recorder.inspections == []


async def test_dropped_and_refused_frames_are_counted_for_their_camera() -> None:
    service = Service()
    await service.stream(block(), frame(1), frame(2, image=b""), frame(3, camera="right", image=b""))
    latest = pb.StreamConfig(model=MODEL, policy=pb.STREAM_POLICY_LATEST)
    answers = await service.stream(latest, *(frame(number) for number in range(30)))
    dropped = sum(
        answer.dropped.last_sequence - answer.sequence + 1
        for answer in answers
        if answer.HasField("dropped")
    )
    assert dropped > 0
    left, right = service.metrics.activity.cameras
    assert (left.inspected, left.refused, left.dropped) == (31 - dropped, 1, dropped)
    assert (right.inspected, right.refused, right.last) == (0, 1, None)


async def test_frame_with_an_invalid_time_is_scored_if_it_is_not_stored() -> None:
    service = Service()
    (response,) = await service.stream(block(), INVALID["capture_time"])
    assert response.inspection.score == 2.0
    assert response.capture_time == INVALID["capture_time"].capture_time
    assert service.inspected() == 1


@pytest.mark.parametrize("field", list(INVALID))
async def test_invalid_request_is_rejected_before_it_is_scored(field: str) -> None:
    service = Service()
    invalid = INVALID[field]
    request = pb.ScoreRequest(model=MODEL, camera=invalid.camera, image=invalid.image, name=invalid.name)
    request.capture_time.CopyFrom(invalid.capture_time)
    with pytest.raises(InvalidRequest, match=field):
        await service.score(request)
    assert service.scorer.requests == []


async def test_responses_repeat_camera_sequence_and_capture_time() -> None:
    service = Service()
    frames = [frame(7, b"0.5", seconds=0), frame(8, b"2.0", camera="right")]
    first, second = await service.stream(block(store=pb.STORE_ANOMALOUS), *frames)
    assert (first.camera, first.sequence, first.capture_time) == ("left", 7, frames[0].capture_time)
    assert first.HasField("capture_time")
    assert (second.camera, second.sequence, second.HasField("capture_time")) == ("right", 8, False)
    assert (first.inspection.score, second.inspection.verdict) == (0.5, VERDICT_ANOMALOUS)
    (recorded,) = service.recorder.inspections
    assert (recorded.score, recorded.capture.camera) == (2.0, "right")
    samples = scrape(service.metrics.registry)
    assert value(samples, INSPECTIONS, **LABELS, verdict="normal") == 1
    assert value(samples, INSPECTIONS, **LABELS, verdict="anomalous") == 1


async def test_bug_refuses_one_frame_without_details() -> None:
    service = Service()
    service.scorer.error = RuntimeError("secret")
    (response,) = await service.stream(block(), frame(1))
    code, _ = StatusCode.INTERNAL.value
    assert (response.refusal.code, response.refusal.reason) == (code, "INTERNAL")
    assert "secret" not in response.refusal.message
    assert value(scrape(service.metrics.registry), "blemish_refused_frames_total", reason="INTERNAL") == 1


async def test_target_false_reject_rate_applies_to_the_stream() -> None:
    service = Service()
    (usual,) = await service.stream(block(), frame(1, b"0.5"))
    (stricter,) = await service.stream(block(target_false_reject_rate=0.5), frame(1, b"0.5"))
    assert usual.inspection.threshold == 1.0
    assert stricter.inspection.threshold == pytest.approx(0.2)


async def test_anomalous_image_gets_its_class_on_request() -> None:
    service = Service()
    image = frame(1, b"2.0").image
    asked = await service.score(
        pb.ScoreRequest(model=MODEL, image=image, outputs=pb.Outputs(defect_class=True))
    )
    assert asked.defect_class == pb.DefectClass(
        class_name="crack", share=0.75, neighbors=5, consensus=pb.CONSENSUS_MAJORITY
    )
    unasked = await service.score(pb.ScoreRequest(model=MODEL, image=image))
    assert not unasked.HasField("defect_class")
    assert len(service.namer.named) == 1


async def test_normal_image_has_no_class() -> None:
    service = Service()
    request = pb.ScoreRequest(
        model=MODEL, image=frame(1, b"0.5").image, outputs=pb.Outputs(defect_class=True)
    )
    assert not (await service.score(request)).HasField("defect_class")
    assert service.namer.named == []


async def test_stream_begins_to_read_labels_before_its_first_frame_and_never_waits_for_them() -> None:
    service = Service()
    config = block(outputs=pb.Outputs(defect_class=True))
    assert await service.stream(config) == []
    assert service.namer.prepared == [ModelRef("tile", 1)]
    (response,) = await service.stream(config, frame(1, b"2.0"))
    assert response.inspection.defect_class.class_name == "crack"
    assert service.namer.limits == [-math.inf]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb.StreamConfig(model=MODEL, policy=cast(Any, 9)), "config.policy"),
        (pb.StreamConfig(model=MODEL, store=cast(Any, 9)), "config.store"),
        (pb.StreamConfig(model=MODEL, priority=cast(Any, 9)), "config.priority"),
        (pb.StreamConfig(model=MODEL, target_false_reject_rate=0.7), "target_false_reject_rate"),
    ],
)
async def test_invalid_config_ends_the_stream(config: pb.StreamConfig, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await Service().stream(config, frame(1))


async def test_negative_max_latency_ends_the_stream() -> None:
    config = block()
    config.max_latency.seconds = -1
    with pytest.raises(InvalidRequest, match="max_latency"):
        await Service().stream(config, frame(1))


async def test_stream_needs_a_config_first_and_only_once() -> None:
    service = Service()

    async def only_a_frame() -> AsyncIterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(frame=frame(1))

    async def two_configs() -> AsyncIterator[pb.ScoreStreamRequest]:
        for _ in range(2):
            yield pb.ScoreStreamRequest(config=block())

    context: Any = FakeContext()
    for requests in (only_a_frame(), two_configs()):
        with pytest.raises(BlemishError, match="config"):
            async for _ in service.servicer.ScoreStream(requests, context):
                pass


async def test_regions_and_mask_are_requested_from_the_scorer() -> None:
    service = Service()
    request = pb.ScoreRequest(model=MODEL, image=frame(1).image)
    await service.score(request)
    request.outputs.mask = True
    await service.score(request)
    await service.stream(block(outputs=pb.Outputs(regions=True)), frame(1))
    asked = [(each.with_regions, each.with_mask, each.needs_regions) for each in service.scorer.requests]
    assert asked == [(False, False, False), (False, True, True), (True, False, True)]


async def test_stream_sends_a_repeated_note_once() -> None:
    service = Service()
    service.scorer.notes = ("the mask was scaled",)
    responses = await service.stream(block(), frame(1), INVALID["camera"], frame(2), frame(3))
    assert [list(each.inspection.notes) for each in responses] == [["the mask was scaled"], [], [], []]
    request = pb.ScoreRequest(model=MODEL, image=frame(1).image)
    for _ in range(2):
        assert (await service.score(request)).notes == ["the mask was scaled"]


async def test_frame_without_its_image_is_refused_alone() -> None:
    omitted = pb.Frame(camera="left", sequence=1, omitted_bytes=9_000_000)
    answers = await Service().stream(block(), frame(0), omitted, frame(2))
    assert [answer.WhichOneof("answer") for answer in answers] == ["inspection", "refusal", "inspection"]
    refusal = answers[1].refusal
    assert (refusal.code, refusal.reason) == (RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert refusal.message.startswith(
        f"the frame has 9000000 bytes, more than the {MAX_MESSAGE_BYTES} that BLEMISH_MAX_MESSAGE_BYTES"
    )
