# SPDX-License-Identifier: Apache-2.0
"""Watches of inspections go on after failures, in both clients."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from tests.support.fake_server import CallError, FakeServer

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import (
    CameraStates,
    InspectionEvent,
    StreamEnding,
    WatchInspectionsResponse,
)
from blemish_client import AsyncClient, Client, RetryPolicy, Verdict
from blemish_client.errors import ResourceExhausted, Unauthenticated, Unavailable
from blemish_client.transport import inspection_watch

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02, call_s=0.5, watch_s=0.5)
STATES = WatchInspectionsResponse(states=CameraStates())
ENDING = WatchInspectionsResponse(ending=StreamEnding(message="the server is stopping"))
AWAY = CallError(grpc.StatusCode.UNAVAILABLE, "away")
FULL = CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers", "OVERLOADED")

Watched = tuple[list[WatchInspectionsResponse], Exception]
Watch = Callable[..., Watched]


def event(sequence: int) -> WatchInspectionsResponse:
    return WatchInspectionsResponse(inspection=InspectionEvent(camera="left", sequence=sequence))


@pytest.fixture(params=["blocking", "asyncio"])
def watch(request: pytest.FixtureRequest, target: str) -> Iterator[Watch]:
    """Yield a function that returns all responses of a watch, and the error that ended it."""

    def blocking(**options: object) -> Watched:
        received: list[WatchInspectionsResponse] = []
        with Client(target, retry_policy=QUICK) as client:
            try:
                received.extend(client.watch_inspections(**options))  # type: ignore[arg-type]
            except Exception as error:
                return received, error
        raise AssertionError("a watch ends with an error only")

    async def of_asyncio(**options: object) -> Watched:
        received: list[WatchInspectionsResponse] = []
        async with AsyncClient(target, retry_policy=QUICK) as client:
            try:
                async for response in client.watch_inspections(**options):  # type: ignore[arg-type]
                    received.append(response)  # noqa: PERF401 (what came before an error counts)
            except Exception as error:
                return received, error
        raise AssertionError("a watch ends with an error only")

    if request.param == "blocking":
        yield blocking
    else:
        yield lambda **options: asyncio.run(of_asyncio(**options))


def test_watch_goes_on_after_endings_and_lost_connections(watch: Watch, fake: FakeServer) -> None:
    fake.inspection_watches = [
        [STATES, event(1), ENDING],
        [AWAY],
        [STATES, event(2), AWAY],
        [STATES, event(3)],
        [FULL],
        [STATES, event(4)],
    ]
    received, error = watch()
    assert isinstance(error, Unauthenticated)
    assert [each.inspection.sequence for each in received if each.HasField("inspection")] == [1, 2, 3, 4]
    assert sum(each.HasField("states") for each in received) == 4
    assert not any(each.HasField("ending") for each in received)


def test_watch_gives_up_when_the_server_stays_away(watch: Watch, fake: FakeServer) -> None:
    causes: list[Unavailable] = []
    fake.inspection_watches = [[STATES, AWAY]]
    fake.inspection_watches += [[AWAY] for _ in range(1000)]
    received, error = watch(on_unreachable=causes.append)
    assert isinstance(error, Unavailable)
    assert received == [STATES]
    assert len(causes) > 3
    assert {cause.message for cause in causes} == {"away"}


def test_full_server_rejects_the_first_call(watch: Watch, fake: FakeServer) -> None:
    fake.inspection_watches = [[FULL], [STATES]]
    received, error = watch()
    assert isinstance(error, ResourceExhausted)
    assert received == []


def test_options_are_sent(watch: Watch, fake: FakeServer) -> None:
    fake.inspection_watches = [[STATES]]
    watch(
        cameras=["left"],
        models=["tile", "tile/3"],
        verdicts=[Verdict.ANOMALOUS],
        thumbnail=200,
        heat=True,
        thumbnails_per_second=0.5,
        state_interval_s=1.5,
    )
    (request,) = fake.requests["WatchInspections"]
    assert list(request.cameras) == ["left"]
    assert list(request.models) == ["models/tile", "models/tile/versions/3"]
    assert list(request.verdicts) == [VERDICT_ANOMALOUS]
    assert (request.thumbnails.max_side, request.thumbnails.heat) == (200, True)
    assert request.thumbnails.per_second == 0.5
    assert request.state_interval.ToTimedelta().total_seconds() == 1.5


def test_unknown_option_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="camera"):
        client.watch_inspections(camera="left")  # type: ignore[call-arg]


def test_server_that_sends_nothing_counts_as_unreachable(
    watch: Watch, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_watch, "_SILENT_AFTER_S", 0.2)
    released = threading.Event()

    def silent() -> Iterator[WatchInspectionsResponse]:
        yield STATES
        released.wait(10)

    causes: list[Unavailable] = []
    fake.inspection_watches = [silent(), [STATES, event(2)]]  # type: ignore[list-item]
    received, error = watch(on_unreachable=causes.append)
    released.set()
    assert isinstance(error, Unauthenticated)
    assert [each.WhichOneof("event") for each in received] == ["states", "states", "inspection"]
    assert [cause.message for cause in causes] == ["the server sent nothing for 0.2 s; check the network"]


def test_slow_reader_is_not_silent(
    client: Client, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_watch, "_SILENT_AFTER_S", 0.2)
    fake.inspection_watches = [[STATES, event(1), event(2)]]
    responses = client.watch_inspections()
    for expected in (STATES, event(1), event(2)):
        assert next(responses) == expected
        time.sleep(0.5)
