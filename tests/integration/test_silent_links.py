# SPDX-License-Identifier: Apache-2.0
"""Calls on a link that goes silent: nothing arrives, and neither side receives a FIN or an RST."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.relay import Relay

from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK, STREAM_POLICY_LATEST, StreamPolicy
from blemish.v1.job_pb2 import PatchCore
from blemish_client import AsyncClient, Client, FrameResult, Keepalive, LostFrames
from blemish_client.errors import Unavailable

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack

QUICK = Keepalive(interval_s=1, timeout_s=3)  # a shorter limit fails on a busy machine
# The detection of QUICK, the next attempt to connect, and time for a slow machine.
WITHIN_S = 15.0
FRAMES = 25

Results = list[FrameResult | LostFrames]


@pytest.fixture
def relay(stack: RunningStack) -> Iterator[Relay]:
    with Relay(stack.address) as relay:
        yield relay


@pytest.fixture(scope="module")
def picture(surfaces: Path) -> bytes:
    return (surfaces / "tile" / "test/good/000.png").read_bytes()


def camera(picture: bytes, frames: int = FRAMES, rate: float = 20.0) -> Iterator[bytes]:
    for _ in range(frames):
        time.sleep(1 / rate)
        yield picture


def stream_blocking(
    address: str,
    images: Iterator[bytes],
    model: str,
    policy: StreamPolicy.ValueType,
    on_result: Callable[[Results], None],
    keepalive: Keepalive = QUICK,
) -> Results:
    results: Results = []
    with Client(address, keepalive=keepalive) as client:
        for result in client.stream(images, model, policy=policy):
            results.append(result)
            on_result(results)
    return results


def stream_in_event_loop(
    address: str,
    images: Iterator[bytes],
    model: str,
    policy: StreamPolicy.ValueType,
    on_result: Callable[[Results], None],
    keepalive: Keepalive = QUICK,
) -> Results:
    async def run() -> Results:
        results: Results = []
        async with AsyncClient(address, keepalive=keepalive) as client:
            async for result in client.stream(images, model, policy=policy):
                results.append(result)
                on_result(results)
        return results

    return asyncio.run(run())


def sequences(results: Results) -> list[int]:
    return [result.answer.sequence for result in results if isinstance(result, FrameResult)]


BOTH = pytest.mark.parametrize("stream", [stream_blocking, stream_in_event_loop])


class Outage:
    """A silent link from the fifth result on, until the stream has noticed it or the test gives up."""

    def __init__(self, relay: Relay, *, discard: bool) -> None:
        self._relay = relay
        self._discard = discard
        self.began_s = 0.0

    def __call__(self, results: Results) -> None:
        if len(results) == 5:
            self.began_s = time.monotonic()
            self._relay.silence(discard=self._discard)
            threading.Thread(target=self._resume_after_reconnect, daemon=True).start()

    def _resume_after_reconnect(self) -> None:
        before = self._relay.accepted
        deadline = time.monotonic() + WITHIN_S
        while self._relay.accepted == before and time.monotonic() < deadline:
            time.sleep(0.01)
        self.noticed_s = time.monotonic() - self.began_s
        self._relay.resume()


@BOTH
@pytest.mark.parametrize("discard", [False, True], ids=["unread", "discarded"])
def test_block_sends_frames_again_after_silent_link(
    stream: Callable[..., Results], discard: bool, relay: Relay, picture: bytes, tile_model: str
) -> None:
    outage = Outage(relay, discard=discard)
    results = stream(relay.address, camera(picture), tile_model, STREAM_POLICY_BLOCK, outage)
    assert sequences(results) == [*range(FRAMES)]
    assert all(isinstance(result, FrameResult) for result in results)
    assert outage.noticed_s < WITHIN_S
    assert relay.accepted == 2


@BOTH
def test_latest_names_frames_lost_on_silent_link(
    stream: Callable[..., Results], relay: Relay, picture: bytes, tile_model: str
) -> None:
    outage = Outage(relay, discard=True)
    results = stream(relay.address, camera(picture, 240), tile_model, STREAM_POLICY_LATEST, outage)
    (lost,) = [result for result in results if isinstance(result, LostFrames)]
    assert "lost" in lost.cause
    named: list[int] = [*lost.sequences]
    for result in results:
        if isinstance(result, FrameResult):
            first = result.answer.sequence
            last = result.answer.dropped.last_sequence if result.answer.HasField("dropped") else first
            named += range(first, last + 1)
    assert sorted(named) == list(range(240))
    assert isinstance(results[-1], FrameResult)


def test_blocked_writes_do_not_hide_silent_link(relay: Relay, tile_model: str) -> None:
    """Large frames fill the buffers of the link, so that no ping can follow them."""

    def large() -> Iterator[bytes]:
        for number in range(30):
            time.sleep(0.05)
            yield number.to_bytes(2) * 500_000

    outage = Outage(relay, discard=False)
    results = stream_blocking(relay.address, large(), tile_model, STREAM_POLICY_BLOCK, outage)
    assert sequences(results) == [*range(30)]
    assert outage.noticed_s < WITHIN_S


def score(client: Client, model: str, picture: bytes, folder: Path) -> None:
    client.score(picture, model)


def search(client: Client, model: str, picture: bytes, folder: Path) -> None:
    list(client.search(picture, model))


def upload(client: Client, model: str, picture: bytes, folder: Path) -> None:
    client.upload("tile", folder)


def download(client: Client, model: str, picture: bytes, folder: Path) -> None:
    client.export_model(model, folder / "exported.blemish")


def read_report(client: Client, model: str, picture: bytes, folder: Path) -> None:
    client.report(model)


def list_datasets(client: Client, model: str, picture: bytes, folder: Path) -> None:
    list(client.datasets())


@pytest.mark.parametrize("call", [score, search, upload, download, read_report, list_datasets])
def test_call_fails_on_silent_link_and_the_next_one_reconnects(
    call: Callable[[Client, str, bytes, Path], None],
    relay: Relay,
    picture: bytes,
    surfaces: Path,
    tile_model: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    (tmp_path / "train" / "good" / "000.png").write_bytes(
        (surfaces / "tile" / "train/good/000.png").read_bytes()
    )
    with Client(relay.address, keepalive=QUICK) as client:
        client.server_info()
        relay.silence(discard=True)
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="silent"):
            call(client, tile_model, picture, tmp_path)
        assert time.monotonic() - began_s < WITHIN_S
        relay.resume()
        time.sleep(0.5)  # for a moment gRPC still gives new calls to the connection that it closes
        call(client, tile_model, picture, tmp_path)


def test_asyncio_calls_fail_on_silent_link_and_the_next_ones_reconnect(
    relay: Relay, picture: bytes, tile_model: str
) -> None:
    async def run() -> None:
        async with AsyncClient(relay.address, keepalive=QUICK) as client:
            await client.server_info()
            relay.silence(discard=True)
            with pytest.raises(Unavailable, match="silent"):
                await asyncio.wait_for(client.score(picture, tile_model), WITHIN_S)
            relay.resume()
            await asyncio.sleep(0.5)
            await client.score(picture, tile_model)
            relay.silence(discard=True)
            with pytest.raises(Unavailable, match="silent"):
                async with asyncio.timeout(WITHIN_S):
                    _ = [answer async for answer in client.search(picture, tile_model)]
            relay.resume()
            await asyncio.sleep(0.5)
            assert [answer async for answer in client.search(picture, tile_model)]

    asyncio.run(run())


def test_transfer_fails_if_the_link_goes_silent_within_it(
    relay: Relay, tile_model: str, surfaces: Path, tmp_path: Path
) -> None:
    with Client(relay.address, keepalive=QUICK) as client:
        with pytest.raises(Unavailable, match="silent"):
            client.export_model(
                tile_model,
                tmp_path / "exported.blemish",
                on_bytes=lambda done, total: relay.silence(discard=True),
            )
        relay.resume()
        time.sleep(0.5)
        with pytest.raises(Unavailable, match="silent"):
            client.upload("tile", surfaces / "tile", on_image=lambda image: relay.silence(discard=True))


def test_call_that_is_safe_to_repeat_is_repeated_after_silent_link(relay: Relay, tile_model: str) -> None:
    with Client(relay.address, keepalive=QUICK) as client:
        client.server_info()
        relay.silence(discard=True)
        threading.Timer(QUICK.detects_within_s + 0.5, relay.resume).start()
        job = client.evaluate(tile_model, "tile")  # creates one job by its request id
        assert client.wait(job).error == ""


def test_job_watch_resumes_after_silent_link(relay: Relay, tile_model: str) -> None:
    with Client(relay.address, keepalive=QUICK) as client:
        job = client.train("tile", model_id="watched", detector=PatchCore(input_size=64))
        states = []
        for seen in client.watch(job):
            states.append(seen)
            if len(states) == 1:
                relay.silence(discard=True)
                threading.Timer(QUICK.detects_within_s + 0.5, relay.resume).start()
        assert states[-1].error == ""
        assert relay.accepted >= 2
        client.delete_model("watched")


def test_slow_link_is_not_taken_for_a_silent_one(stack: RunningStack, tile_model: str) -> None:
    """A ping waits behind the frames that are being sent."""
    keepalive = Keepalive(interval_s=1, timeout_s=10)
    frames = [bytes(700_000)] * 2
    with (
        Relay(stack.address, bytes_per_s=250_000) as slow,
        Client(slow.address, keepalive=keepalive) as client,
    ):
        results = list(client.stream(frames, tile_model, policy=STREAM_POLICY_BLOCK))
    assert sequences(results) == [0, 1]
    assert slow.accepted == 1


def test_link_that_never_answered_fails_the_first_call(stack: RunningStack) -> None:
    with Relay(stack.address) as relay, Client(relay.address) as client:
        relay.silence()
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="cannot connect"):
            client.server_info()
        assert time.monotonic() - began_s < 30


def test_defaults_detect_a_silent_link_within_30_s(
    stack: RunningStack, picture: bytes, tile_model: str
) -> None:
    """A blocking stream, an asyncio stream and a call run at once, each through a relay of its own."""
    keepalive = Keepalive()
    assert keepalive.detects_within_s < 30

    def stream_until_lost(stream: Callable[..., Results], relay: Relay, silent: threading.Event) -> float:
        lost_s: list[float] = []

        def frames() -> Iterator[bytes]:
            while not lost_s:
                time.sleep(0.2)
                yield picture

        def on_result(results: Results) -> None:
            if len(results) == 3:
                silent.wait()
            if isinstance(results[-1], LostFrames):
                lost_s.append(time.monotonic())
                relay.resume()

        stream(relay.address, frames(), tile_model, STREAM_POLICY_LATEST, on_result, keepalive)
        return lost_s[0]

    def call_until_failure(relay: Relay, silent: threading.Event) -> float:
        with Client(relay.address, timeout_s=60) as client:
            client.server_info()
            silent.wait()
            with pytest.raises(Unavailable, match="silent"):
                client.score(picture, tile_model)
        return time.monotonic()

    actions: tuple[Callable[[Relay, threading.Event], float], ...] = (
        partial(stream_until_lost, stream_blocking),
        partial(stream_until_lost, stream_in_event_loop),
        call_until_failure,
    )
    silent = threading.Event()
    with ExitStack() as links, ThreadPoolExecutor(len(actions)) as threads:
        relays = [links.enter_context(Relay(stack.address)) for _ in actions]
        calls = [
            threads.submit(action, relay, silent) for action, relay in zip(actions, relays, strict=True)
        ]
        time.sleep(3)  # the streams run and the call waits
        for relay in relays:
            relay.silence(discard=True)
        began_s = time.monotonic()
        silent.set()
        times_s = [call.result(timeout=60) - began_s for call in calls]
    print("detected after", ", ".join(f"{each:.1f} s" for each in times_s))
    assert max(times_s) < 30
