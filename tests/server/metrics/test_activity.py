# SPDX-License-Identifier: Apache-2.0
"""The open streams and the cameras at work."""

import time
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.inspections import make_capture, make_event, make_inspection

from blemish_core.platform.names import ModelRef
from blemish_server.metrics.activity import Activity, RateMeter
from blemish_server.scoring.frame_queue import FrameQueue, FrameSlot, StreamPolicy
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_event import InspectionEvent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(time, "monotonic", fake.monotonic)
    return fake


def make_queue() -> FrameQueue[Any, None]:
    async def score(slot: FrameSlot[Any]) -> None:
        raise AssertionError("no frame is scored here")

    return FrameQueue(score, StreamPolicy.LATEST)


def seen(camera: str, score: float) -> Inspection:
    return make_inspection(score, capture=make_capture(b"picture", camera=camera))


def activity_of(*events: InspectionEvent) -> Activity:
    activity = Activity()
    for event in events:
        activity.observe(event)
    return activity


def test_rate_is_that_of_the_last_ten_seconds(clock: FakeClock) -> None:
    meter = RateMeter()
    for _ in range(100):
        meter.count()
        clock.now_s += 0.1
    assert meter.per_second == pytest.approx(10, rel=0.1)
    for _ in range(30):
        clock.now_s += 1
        meter.count()
    assert meter.per_second == pytest.approx(1, rel=0.15)
    clock.now_s += 11
    assert meter.per_second == 0


def test_rate_of_a_new_stream_is_that_since_its_start(clock: FakeClock) -> None:
    meter = RateMeter()
    for _ in range(20):
        clock.now_s += 0.1
        meter.count()
    assert meter.per_second == pytest.approx(10)


def test_camera_shows_its_latest_inspection_and_counts() -> None:
    images = (("left", 2.0), ("right", 0.5), ("left", 0.25), ("", 2.0))
    activity = activity_of(*(make_event(score, camera=camera) for camera, score in images))
    activity.dropped("left", 3)
    activity.dropped("", 3)
    activity.refused("left")
    activity.refused("")

    left, right = activity.cameras
    assert (left.name, right.name) == ("left", "right")
    assert left.last is not None
    assert right.last is not None
    assert (left.last.is_anomalous, left.last.score) == (False, 0.25)
    assert right.last.version == ModelRef("tile", 1)
    assert (left.inspected, left.anomalous, left.dropped, left.refused) == (2, 1, 3, 1)
    assert (right.inspected, right.anomalous, right.dropped, right.refused) == (1, 0, 0, 0)
    assert list(left.p_values) == [0.25, 0.5]


def test_anomalies_count_for_an_hour(clock: FakeClock) -> None:
    activity = activity_of(make_event(2.0))
    for _ in range(30):
        clock.now_s += 60
        activity.observe(make_event(0.5))
    (left,) = activity.cameras
    assert (left.hour_inspected.total, left.hour_anomalous.total) == (31, 1)
    clock.now_s += 31 * 60
    assert (left.hour_inspected.total, left.hour_anomalous.total) == (29, 0)
    clock.now_s += 3600
    assert left.hour_inspected.total == 0
    assert (left.inspected, left.anomalous) == (31, 1)


def test_silent_camera_is_shown_for_a_day(clock: FakeClock) -> None:
    activity = activity_of(make_event(2.0))
    clock.now_s += 601
    assert [camera.name for camera in activity.cameras] == ["left"]
    assert activity.inspected_cameras == []
    clock.now_s += 86_400
    assert activity.cameras == []
    activity.observe(make_event(2.0))
    assert [camera.inspected for camera in activity.cameras] == [1]


def test_camera_without_any_inspection_is_shown_with_its_refusals() -> None:
    activity = Activity()
    activity.refused("left")
    assert [(camera.refused, camera.last) for camera in activity.cameras] == [(1, None)]
    assert activity.inspected_cameras == []


def test_only_open_streams_are_shown() -> None:
    activity = Activity()
    with activity.track(ModelRef("tile", None), make_queue()) as stream:
        stream.observe(seen("left", 2.0))
        stream.observe(seen("right", 0.5))
        assert activity.streams == [stream]
        assert list(stream.cameras) == ["left", "right"]
        assert stream.last is not None
        assert not stream.last.is_anomalous
    assert activity.streams == []


def test_invented_camera_names_are_bounded() -> None:
    activity = Activity()
    with activity.track(ModelRef("tile", 1), make_queue()) as stream:
        for number in range(1000):
            activity.observe(make_event(camera=f"camera {number:04}"))
            stream.observe(seen(f"camera {number:04}", 0.5))

    assert len(activity.cameras) == 256
    assert activity.cameras[-1].name == "camera 0999"
    assert len(stream.cameras) == 16
