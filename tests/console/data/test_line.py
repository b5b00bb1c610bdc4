# SPDX-License-Identifier: Apache-2.0
"""The watch of the line without sockets: what it keeps of each camera, and when it runs."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Unpack

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.clock import FakeClock

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, Verdict
from blemish.v1.inspection_pb2 import (
    CameraState,
    CameraStates,
    InspectionEvent,
    InspectionThumbnail,
    WatchInspectionsResponse,
)
from blemish_client.aio import AsyncClient
from blemish_client.errors import BlemishError, Unauthenticated, Unavailable
from blemish_client.transport.requests import InspectionWatchOptions
from blemish_console.data.line import FORGET_AFTER_S, MAX_P_VALUES, LineWatch

NOW_S = 1_000_000.0


class FakeClient(AsyncClient):
    """A client that yields given responses, then raises an error or stays silent."""

    def __init__(self, responses: list[WatchInspectionsResponse], error: BlemishError | None) -> None:
        super().__init__("127.0.0.1:1")
        self._responses = responses
        self._error = error
        self.is_watching = False
        self.is_closed = False
        self.on_unreachable: Callable[[Unavailable], None] | None = None

    async def watch_inspections(
        self, **options: Unpack[InspectionWatchOptions]
    ) -> AsyncGenerator[WatchInspectionsResponse]:
        self.on_unreachable = options.get("on_unreachable")
        self.is_watching = True
        try:
            for response in self._responses:
                yield response
            if self._error is not None:
                raise self._error
            await asyncio.Event().wait()
        finally:
            self.is_watching = False

    async def close(self) -> None:
        self.is_closed = True
        await super().close()


class Watched:
    """A watch, and the clients that it has opened."""

    def __init__(self, *responses: WatchInspectionsResponse, error: BlemishError | None = None) -> None:
        self.clock = FakeClock()
        self.clients: list[FakeClient] = []
        self.rejections = 0
        self._responses, self._error = list(responses), error
        self.watch = LineWatch(self._open, self._reject, self.clock.monotonic, lambda: NOW_S)

    def _open(self) -> AsyncClient:
        self.clients.append(FakeClient(self._responses, self._error))
        return self.clients[-1]

    def _reject(self) -> None:
        self.rejections += 1


def inspection(
    verdict: Verdict.ValueType = VERDICT_NORMAL, *, camera: str = "left", at: float = NOW_S, p: float = 0.5
) -> InspectionEvent:
    event = InspectionEvent(camera=camera, verdict=verdict, p_value=p, time=Timestamp())
    event.time.FromNanoseconds(round(at * 1e9))
    return event


def verdict(event: InspectionEvent, lost: int = 0) -> WatchInspectionsResponse:
    return WatchInspectionsResponse(inspection=event, lost=lost)


def states(*cameras: CameraState) -> WatchInspectionsResponse:
    return WatchInspectionsResponse(states=CameraStates(cameras=cameras))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_first_states_show_what_happened_before_the_page_was_opened() -> None:
    watched = Watched()
    last = inspection(VERDICT_ANOMALOUS, at=NOW_S - 90)
    state = CameraState(
        camera="left",
        images_per_second=2.5,
        hour_inspected=200,
        hour_anomalous=3,
        last=last,
        recent_p_values=[0.5, 0.01],
    )
    watched.watch.add(states(state))
    camera = watched.watch.cameras["left"]
    assert (camera.last, list(camera.p_values)) == (last, [0.5, 0.01])
    assert camera.hour_share == 0.015
    assert camera.silent_s(watched.watch.now_s) == 90


def test_camera_is_silent_only_after_a_while_without_images() -> None:
    watched = Watched()
    watched.watch.add(verdict(inspection()))
    camera = watched.watch.cameras["left"]
    watched.clock.now_s += 10
    assert camera.silent_s(watched.watch.now_s) is None
    watched.clock.now_s += 1
    assert camera.silent_s(watched.watch.now_s) == 11
    watched.watch.add(verdict(inspection(at=NOW_S + 11)))
    assert camera.silent_s(watched.watch.now_s) is None


def test_states_do_not_replace_a_later_verdict() -> None:
    watched = Watched()
    watched.watch.add(verdict(inspection(VERDICT_ANOMALOUS, at=NOW_S)))
    watched.watch.add(states(CameraState(camera="left", last=inspection(at=NOW_S - 5))))
    last = watched.watch.cameras["left"].last
    assert last is not None
    assert last.verdict == VERDICT_ANOMALOUS


def test_p_values_and_lost_verdicts_are_bounded_and_counted() -> None:
    watched = Watched()
    for number in range(2 * MAX_P_VALUES):
        watched.watch.add(verdict(inspection(p=number / 1000, at=NOW_S + number), lost=2))
    assert len(watched.watch.cameras["left"].p_values) == MAX_P_VALUES
    assert watched.watch.cameras["left"].p_values[-1] == (2 * MAX_P_VALUES - 1) / 1000
    assert watched.watch.lost == 4 * MAX_P_VALUES


def test_older_picture_never_replaces_a_newer_one() -> None:
    watched = Watched()
    for at, jpeg in ((NOW_S, b"new"), (NOW_S - 1, b"old")):
        thumbnail = InspectionThumbnail(inspection=inspection(at=at), jpeg=jpeg)
        watched.watch.add(WatchInspectionsResponse(thumbnail=thumbnail))
    assert watched.watch.cameras["left"].picture_url == "data:image/jpeg;base64,bmV3"


def test_images_without_a_camera_have_no_tile() -> None:
    watched = Watched()
    watched.watch.add(verdict(inspection(camera="")))
    assert watched.watch.cameras == {}


def test_camera_that_is_silent_since_a_restart_of_the_server_stays_for_a_day() -> None:
    watched = Watched()
    watched.watch.add(states(CameraState(camera="left", images_per_second=3, last=inspection())))
    watched.watch.add(states())
    assert watched.watch.cameras["left"].state.images_per_second == 0
    watched.clock.now_s += FORGET_AFTER_S + 1
    watched.watch.add(states())
    assert watched.watch.cameras == {}


def test_camera_without_a_verdict_stays_after_a_restart_of_the_server() -> None:
    watched = Watched()
    watched.watch.add(states(CameraState(camera="left", refused=3)))
    watched.watch.add(states())
    assert list(watched.watch.cameras) == ["left"]


def test_anomaly_that_arrives_after_a_later_verdict_counts() -> None:
    watched = Watched()
    watched.watch.add(verdict(inspection(at=NOW_S)))
    watched.watch.add(verdict(inspection(VERDICT_ANOMALOUS, at=NOW_S - 1)))
    camera = watched.watch.cameras["left"]
    assert camera.anomalous_s == watched.watch.now_s
    assert camera.last is not None and camera.last.verdict == VERDICT_NORMAL


async def test_pages_share_one_watcher_that_ends_with_the_last_page() -> None:
    watched = Watched(verdict(inspection()))
    assert not watched.watch.is_running
    watched.watch.page_opened()
    watched.watch.page_opened()
    await until(lambda: "left" in watched.watch.cameras)
    watched.watch.page_closed()
    assert [client.is_watching for client in watched.clients] == [True]
    watched.watch.page_closed()
    await until(lambda: watched.clients[0].is_closed)
    assert not watched.clients[0].is_watching
    assert not watched.watch.is_running
    assert watched.watch.cameras == {}


async def test_page_that_is_opened_after_the_last_one_starts_a_new_watch() -> None:
    watched = Watched(verdict(inspection()))
    for _ in range(2):
        watched.watch.page_opened()
        await until(lambda: "left" in watched.watch.cameras)
        watched.watch.page_closed()
    assert len(watched.clients) == 2
    await until(lambda: all(client.is_closed for client in watched.clients))


async def test_lost_connection_is_reported_until_the_server_answers() -> None:
    watched = Watched(states())
    watched.watch.page_opened()
    await until(lambda: watched.watch.has_begun)
    on_unreachable = watched.clients[0].on_unreachable
    assert on_unreachable is not None
    on_unreachable(Unavailable("away", code=grpc.StatusCode.UNAVAILABLE))
    watched.clock.now_s += 5
    on_unreachable(Unavailable("still away", code=grpc.StatusCode.UNAVAILABLE))
    assert watched.watch.failure is not None
    assert watched.watch.failure.message == "still away"
    assert watched.watch.now_s - watched.watch.failed_s == 5
    watched.watch.add(states())
    assert watched.watch.failure is None
    watched.watch.page_closed()


async def test_rejected_token_ends_the_watch_and_the_session() -> None:
    watched = Watched(error=Unauthenticated("revoked", code=grpc.StatusCode.UNAUTHENTICATED))
    watched.watch.page_opened()
    await until(lambda: watched.rejections == 1)
    await until(lambda: watched.clients[0].is_closed)
    assert len(watched.clients) == 1
    watched.watch.close()


@pytest.mark.parametrize("pages", [0, 1])
async def test_close_before_the_pages_leaves_nothing_running(pages: int) -> None:
    watched = Watched(verdict(inspection()))
    for _ in range(pages):
        watched.watch.page_opened()
    watched.watch.close()
    assert not watched.watch.is_running
    for _ in range(pages):
        watched.watch.page_closed()
    assert not watched.watch.is_running
