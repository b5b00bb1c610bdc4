# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.support.fake_server import CallError, FakeServer

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_NORMAL
from blemish_client import AsyncClient, Frame, FrameResult, LostFrames, RetryPolicy, Store
from blemish_client.errors import BlemishError, InternalError, InvalidArgument, NotFound, Unavailable
from blemish_client.streaming import async_frame_stream
from blemish_client.streaming.async_frame_stream import FAILED_WRITE, translate_stream_error

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05, call_s=0.3, watch_s=1.0)
BLOCK = pb.STREAM_POLICY_BLOCK


@pytest.fixture
async def client(target: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(target, retry_policy=QUICK) as client:
        yield client


async def frames(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number])


async def collect(answers: AsyncIterator[FrameResult | LostFrames]) -> list[FrameResult | LostFrames]:
    return [result async for result in answers]


def sequences(results: list[FrameResult | LostFrames]) -> list[int]:
    return [result.answer.sequence for result in results if isinstance(result, FrameResult)]


async def test_score_returns_the_inspection(client: AsyncClient, fake: FakeServer) -> None:
    inspection = await client.score(b"png", "m/3", priority=pb.PRIORITY_LINE_STOP)
    assert (inspection.score, inspection.verdict) == (1.5, VERDICT_NORMAL)
    (request,) = fake.requests["Score"]
    assert (request.model, request.priority) == ("models/m/versions/3", pb.PRIORITY_LINE_STOP)


async def test_rejected_image_raises_with_reason(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.score(b"not an image", "m")
    assert refused.value.reason == "INVALID_IMAGE"


async def test_server_info_and_search(client: AsyncClient, fake: FakeServer) -> None:
    assert (await client.server_info()).version
    answers = [answer async for answer in client.search(b"png", "m", 3)]
    assert answers[0].WhichOneof("event") == "query"
    assert {answer.WhichOneof("event") for answer in answers[1:]} == {"hit"}


async def test_files_and_frames_with_their_origin(client: AsyncClient, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"a")
    assert (await client.score(file, "m", store=Store.ALL)).score == 1.5
    images: list[Frame | bytes] = [
        Frame(file, name="a.png", camera="right", sequence=7),
        Frame(b"b", name="b"),
        b"c",
    ]
    results = [each for each in await collect(client.stream(images, "m")) if isinstance(each, FrameResult)]
    assert [(each.name, each.camera, each.sequence, each.image) for each in results] == [
        ("a.png", "right", 7, b"a"),
        ("b", "", 0, b"b"),
        ("", "", 1, b"c"),
    ]


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_every_frame_has_a_result_with_its_image(
    client: AsyncClient, fake: FakeServer, kind: str
) -> None:
    images: Any = frames(3) if kind == "async" else [b"\0", b"\1", b"\2"]
    results = await collect(client.stream(images, "m", camera="left", first=7, policy=BLOCK))
    assert [
        (result.answer.sequence, result.image) for result in results if isinstance(result, FrameResult)
    ] == [
        (7, b"\0"),
        (8, b"\1"),
        (9, b"\2"),
    ]
    assert all(isinstance(result, FrameResult) and 0 < result.latency_s < 10 for result in results)


@pytest.mark.parametrize("how", ["cut", "ended"])
async def test_block_loses_no_frame_with_the_connection(
    how: str, client: AsyncClient, fake: FakeServer
) -> None:
    gone = CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")
    ending = pb.ScoreStreamResponse(ending=pb.StreamEnding(message="about to stop"))
    fake.streams = [[None, None, gone if how == "cut" else ending]]
    results = await collect(client.stream(frames(40), "m", policy=BLOCK))
    assert sequences(results) == list(range(40))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_latest_reports_lost_frames(client: AsyncClient, fake: FakeServer) -> None:
    fake.streams = [[None, None, CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    results = await collect(client.stream(frames(40), "m"))
    lost = [number for result in results if isinstance(result, LostFrames) for number in result.sequences]
    assert 2 in lost
    assert sorted([*sequences(results), *lost]) == list(range(40))


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_exception_of_the_source_is_raised(client: AsyncClient, kind: str) -> None:
    async def unplugged() -> AsyncIterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    def pulled() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await collect(client.stream(unplugged() if kind == "async" else pulled(), "m"))


async def test_rejected_stream_is_not_retried(client: AsyncClient, fake: FakeServer) -> None:
    fake.errors["ScoreStream"] = 2 * [CallError(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")]
    with pytest.raises(NotFound, match="no model"):
        await collect(client.stream(frames(1), "m"))
    assert 1 <= len(fake.requests["ScoreStream"]) <= 2  # twice if a failed write hid the first rejection


async def test_rejection_hidden_by_a_failed_write_is_requested_again(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio replaces the status of a call if a write fails before the server's status arrives."""
    refusal = CallError(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")
    fake.errors["ScoreStream"] = [refusal, refusal]
    hidden = iter([True])
    translate = async_frame_stream.translate_stream_error

    def hide_once(error: grpc.aio.AioRpcError, target: str) -> BlemishError:
        if next(hidden, False):
            lost = grpc.StatusCode.INTERNAL
            error = grpc.aio.AioRpcError(
                lost, error.initial_metadata(), error.trailing_metadata(), FAILED_WRITE
            )
        return translate(error, target)

    monkeypatch.setattr(async_frame_stream, "translate_stream_error", hide_once)
    with pytest.raises(NotFound, match="no model"):
        await collect(client.stream(frames(1), "m"))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_retries_end_without_a_server() -> None:
    async with AsyncClient("127.0.0.1:1", retry_policy=QUICK) as client:
        with pytest.raises(Unavailable):
            await collect(client.stream(frames(1), "m"))


async def test_next_connection_continues_a_pending_read_of_the_source(
    client: AsyncClient, fake: FakeServer
) -> None:
    reconnected = asyncio.Event()

    async def images() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number])
        await asyncio.wait_for(reconnected.wait(), 5)  # the connection is lost during this wait
        for number in range(3, 6):
            yield bytes([number])

    fake.streams = [[None, CallError(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    results: list[FrameResult | LostFrames] = []
    async for result in client.stream(images(), "m", policy=BLOCK):
        results.append(result)
        asyncio.get_running_loop().call_later(0.2, reconnected.set)
    assert sequences(results) == list(range(6))


async def test_closing_the_stream_leaves_no_task(client: AsyncClient) -> None:
    closed = asyncio.Event()

    async def images() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            closed.set()

    stream = client.stream(images(), "m", policy=BLOCK)
    async for _ in stream:
        break
    await stream.aclose()
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == 1


def test_call_that_ended_during_a_write_is_unavailable() -> None:
    """FrameResult while other work took the cores: the status of the call is lost then."""

    def ended(code: grpc.StatusCode, words: str) -> type[BlemishError]:
        nothing = grpc.aio.Metadata()
        return type(translate_stream_error(grpc.aio.AioRpcError(code, nothing, nothing, words), "here"))

    assert issubclass(ended(grpc.StatusCode.INTERNAL, "Internal error from Core"), Unavailable)
    assert ended(grpc.StatusCode.INTERNAL, "internal error; see the server's log") is InternalError


async def test_frame_above_the_limit_is_sent_without_its_image(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.max_message_bytes = 2 << 20
    results = await collect(client.stream([b"a", bytes(3 << 20), b"b"], "m"))
    assert sequences(results) == [0, 1, 2]
    assert list(fake.omitted) == [1]


async def test_arrays_are_frames(client: AsyncClient) -> None:
    (result,) = await collect(client.stream([np.zeros((2, 3), np.uint8)], "m"))
    assert isinstance(result, FrameResult)
    assert result.sent.raw.pixel_format == "Mono8"
