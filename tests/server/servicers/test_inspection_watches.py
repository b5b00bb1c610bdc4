# SPDX-License-Identifier: Apache-2.0
"""Responses to watchers: states first and at intervals, then events, until the server stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from tests.support.inspections import make_capture, make_inspection

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_UNSPECIFIED, Verdict
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import InvalidRequest, Overloaded
from blemish_server.converters.watching import parse_watch
from blemish_server.metrics.activity import Activity
from blemish_server.scoring.inspection_feed import MAX_PENDING, InspectionFeed
from blemish_server.servicers.inspection_watches import InspectionWatches

EVERY_SECOND = pb.WatchInspectionsRequest()
EVERY_SECOND.state_interval.seconds = 1


class Line:
    """The feed of a server, and its watchers."""

    def __init__(self) -> None:
        self.activity = Activity()
        self.feed = InspectionFeed(self.activity, ImageLimits(), max_watchers=2)
        self.watches = InspectionWatches(self.feed, self.activity)
        self.ending = asyncio.Event()

    def inspect(self, score: float = 0.5, camera: str = "left", sequence: int = 1) -> None:
        capture = replace(make_capture(camera=camera), sequence=sequence)
        self.feed.publish(make_inspection(score, capture=capture))

    @asynccontextmanager
    async def watched(
        self, request: pb.WatchInspectionsRequest = EVERY_SECOND
    ) -> AsyncIterator[AsyncIterator[pb.WatchInspectionsResponse]]:
        """Yield the responses to a watcher. Fail if one takes more than five seconds."""
        responses = self.watches.responses(parse_watch(request), self.ending)
        async with aclosing(responses), asyncio.timeout(5):
            yield responses


@pytest.fixture
async def line() -> Line:
    return Line()


async def test_first_message_has_the_cameras_with_their_last_inspection(line: Line) -> None:
    for score in (0.5, 2.0):
        line.inspect(score, "left")
    line.inspect(0.5, "right")
    line.activity.refused("dark")
    async with line.watched() as responses:
        first = await anext(responses)
    dark, left, right = first.states.cameras
    assert (dark.camera, dark.refused, dark.HasField("last")) == ("dark", 1, False)
    assert (left.inspected, left.anomalous, left.hour_anomalous, left.last.score) == (2, 1, 1, 2.0)
    assert left.last.verdict == VERDICT_ANOMALOUS
    assert list(left.recent_p_values) == [0.25, 0.25]
    assert (right.camera, right.inspected) == ("right", 1)


async def test_states_follow_at_each_interval_without_history(line: Line) -> None:
    line.inspect()
    async with line.watched() as responses:
        await anext(responses)
        second = await anext(responses)
    (left,) = second.states.cameras
    assert (left.inspected, left.HasField("last"), len(left.recent_p_values)) == (1, False, 0)


async def test_states_come_also_without_any_camera(line: Line) -> None:
    async with line.watched() as responses:
        assert (await anext(responses)).WhichOneof("event") == "states"
        assert (await anext(responses)).WhichOneof("event") == "states"


async def test_filter_of_cameras_applies_to_states_and_events(line: Line) -> None:
    line.inspect(camera="left")
    line.inspect(camera="right")
    request = pb.WatchInspectionsRequest(cameras=["right"])
    async with line.watched(request) as responses:
        assert [camera.camera for camera in (await anext(responses)).states.cameras] == ["right"]
        line.inspect(camera="left")
        line.inspect(camera="right", sequence=9)
        event = await anext(responses)
    assert (event.inspection.camera, event.inspection.sequence) == ("right", 9)


async def test_message_after_lost_events_counts_them(line: Line) -> None:
    async with line.watched() as responses:
        await anext(responses)
        for number in range(MAX_PENDING + 5):
            line.inspect(sequence=number)
        first, second = await anext(responses), await anext(responses)
    assert (first.lost, first.inspection.sequence) == (5, 5)
    assert (second.lost, second.inspection.sequence) == (0, 6)


async def test_image_without_camera_or_sequence_is_an_event(line: Line) -> None:
    async with line.watched() as responses:
        assert not (await anext(responses)).states.cameras
        line.feed.publish(make_inspection(2.0))
        event = await anext(responses)
    assert event.inspection.camera == ""
    assert not event.inspection.HasField("sequence")
    assert not event.inspection.HasField("capture_time")


async def test_watchers_end_when_the_server_stops(line: Line) -> None:
    async with line.watched() as responses:
        await anext(responses)
        line.ending.set()
        assert [response async for response in responses] == []
    assert line.feed.watchers == 0


async def test_watcher_beyond_the_limit_is_refused(line: Line) -> None:
    async with line.watched() as first, line.watched() as second:
        await anext(first)
        await anext(second)
        with pytest.raises(Overloaded):
            async with line.watched() as third:
                await anext(third)


def thumbnails(*, max_side: int = 0, per_second: float = 0.0) -> pb.WatchInspectionsRequest:
    options = pb.ThumbnailOptions(max_side=max_side, per_second=per_second)
    return pb.WatchInspectionsRequest(thumbnails=options)


def interval(seconds: int) -> pb.WatchInspectionsRequest:
    request = pb.WatchInspectionsRequest()
    request.state_interval.seconds = seconds
    return request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.WatchInspectionsRequest(models=["tile"]), "models"),
        (pb.WatchInspectionsRequest(models=["models/tile@production"]), "models"),
        (pb.WatchInspectionsRequest(models=["models/tile"] * 257), "models"),
        (pb.WatchInspectionsRequest(cameras=["left"] * 257), "cameras"),
        (pb.WatchInspectionsRequest(verdicts=[VERDICT_UNSPECIFIED]), "verdicts"),
        (pb.WatchInspectionsRequest(verdicts=[Verdict.ValueType(77)]), "verdicts"),
        (thumbnails(max_side=15), "thumbnails.max_side"),
        (thumbnails(max_side=-1), "thumbnails.max_side"),
        (thumbnails(max_side=1025), "thumbnails.max_side"),
        (thumbnails(per_second=-1), "thumbnails.per_second"),
        (thumbnails(per_second=11), "thumbnails.per_second"),
        (thumbnails(per_second=float("nan")), "thumbnails.per_second"),
        (interval(-1), "state_interval"),
        (interval(61), "state_interval"),
        (interval(10**12), "state_interval"),
    ],
)
def test_invalid_option_is_refused_with_its_field(request_: pb.WatchInspectionsRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_watch(request_)
    assert refused.value.field == field
