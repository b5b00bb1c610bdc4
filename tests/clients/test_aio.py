# SPDX-License-Identifier: Apache-2.0
"""``AsyncClient``: what ``Client`` does, within an event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from blemish.v1 import inspection_pb2 as pb
from blemish_client import AsyncClient, FrameResult, LostFrames, RetryPolicy
from blemish_client.errors import BlemishError, InternalError, InvalidArgument, NotFound, Unavailable
from blemish_client.streaming import async_frame_stream
from blemish_client.streaming.async_frame_stream import FAILED_WRITE, translate_stream_error

if TYPE_CHECKING:
    from tests.clients.conftest import Fake, Make

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05, call_s=0.3, watch_s=1.0)
BLOCK = pb.STREAM_POLICY_BLOCK


@pytest.fixture
async def client(target: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(target, retry_policy=QUICK) as client:
        yield client


async def coming(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number])


async def listed(answers: AsyncIterator[FrameResult | LostFrames]) -> list[FrameResult | LostFrames]:
    return [one async for one in answers]


def sequences(seen: list[FrameResult | LostFrames]) -> list[int]:
    return [one.answer.sequence for one in seen if isinstance(one, FrameResult)]


async def test_one_image(client: AsyncClient, fake: "Fake") -> None:
    inspection = await client.score(b"png", "m/3", priority=pb.PRIORITY_LINE_STOP)
    assert inspection.HasField("timings") or inspection.score >= 0
    (request,) = fake.requests["Score"]
    assert (request.model, request.priority) == ("models/m/versions/3", pb.PRIORITY_LINE_STOP)


async def test_a_refusal_says_the_cause(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.score(b"not an image", "m")
    assert refused.value.reason == "INVALID_IMAGE"


async def test_the_server_and_its_hits(client: AsyncClient, fake: "Fake") -> None:
    assert (await client.server_info()).version
    answers = [answer async for answer in client.search(b"png", "m", 3)]
    assert answers[0].WhichOneof("event") == "query"
    assert {answer.WhichOneof("event") for answer in answers[1:]} == {"hit"}


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_every_frame_is_answered_and_told_with_its_image(
    client: AsyncClient, fake: "Fake", kind: str
) -> None:
    images: Any = coming(3) if kind == "async" else [b"\0", b"\1", b"\2"]
    seen = await listed(client.stream(images, "m", camera="left", first=7, policy=BLOCK))
    assert [(one.answer.sequence, one.image) for one in seen if isinstance(one, FrameResult)] == [
        (7, b"\0"),
        (8, b"\1"),
        (9, b"\2"),
    ]
    assert all(isinstance(one, FrameResult) and 0 < one.latency_s < 10 for one in seen)


@pytest.mark.parametrize("how", ["cut", "ended"])
async def test_under_block_a_lost_connection_loses_no_frame(
    how: str, client: AsyncClient, fake: "Fake", make: "Make"
) -> None:
    gone = make.refusal(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")
    ending = pb.ScoreStreamResponse(ending=pb.StreamEnding(message="about to stop"))
    fake.streams = [[None, None, gone if how == "cut" else ending]]
    seen = await listed(client.stream(coming(40), "m", policy=BLOCK))
    assert sequences(seen) == list(range(40))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_otherwise_the_lost_frames_are_named(client: AsyncClient, fake: "Fake", make: "Make") -> None:
    fake.streams = [[None, None, make.refusal(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    seen = await listed(client.stream(coming(40), "m"))
    lost = [number for one in seen if isinstance(one, LostFrames) for number in one.sequences]
    assert 2 in lost
    assert sorted([*sequences(seen), *lost]) == list(range(40))


@pytest.mark.parametrize("kind", ["async", "ordinary"])
async def test_what_the_source_raises_is_raised(client: AsyncClient, kind: str) -> None:
    async def unplugged() -> AsyncIterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    def pulled() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the camera was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await listed(client.stream(unplugged() if kind == "async" else pulled(), "m"))


async def test_a_refused_stream_is_not_tried_again(client: AsyncClient, fake: "Fake", make: "Make") -> None:
    fake.refusals["ScoreStream"] = 2 * [make.refusal(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")]
    with pytest.raises(NotFound, match="no model"):
        await listed(client.stream(coming(1), "m"))
    assert 1 <= len(fake.requests["ScoreStream"]) <= 2  # twice where a failing write hid the first refusal


async def test_a_refusal_that_a_failing_write_hid_is_asked_for_again(
    client: AsyncClient, fake: "Fake", make: "Make", monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio gives a call whose write fails a status of its own, before the server's has come."""
    refusal = make.refusal(grpc.StatusCode.NOT_FOUND, "no model", "NOT_FOUND")
    fake.refusals["ScoreStream"] = [refusal, refusal]
    hidden = iter([True])
    translate = async_frame_stream.translate_stream_error

    def hiding(error: grpc.aio.AioRpcError, target: str) -> BlemishError:
        if next(hidden, False):
            lost = grpc.StatusCode.INTERNAL
            error = grpc.aio.AioRpcError(
                lost, error.initial_metadata(), error.trailing_metadata(), FAILED_WRITE
            )
        return translate(error, target)

    monkeypatch.setattr(async_frame_stream, "translate_stream_error", hiding)
    with pytest.raises(NotFound, match="no model"):
        await listed(client.stream(coming(1), "m"))
    assert len(fake.requests["ScoreStream"]) == 2


async def test_patience_ends() -> None:
    async with AsyncClient("127.0.0.1:1", retry_policy=QUICK) as nobody:
        with pytest.raises(Unavailable):
            await listed(nobody.stream(coming(1), "m"))


async def test_a_source_that_outlasts_its_connection_is_read_on_by_the_next(
    client: AsyncClient, fake: "Fake", make: "Make"
) -> None:
    reconnected = asyncio.Event()

    async def images() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number])
        await asyncio.wait_for(reconnected.wait(), 5)  # the connection is cut meanwhile
        for number in range(3, 6):
            yield bytes([number])

    fake.streams = [[None, make.refusal(grpc.StatusCode.UNAVAILABLE, "gone", "UNAVAILABLE")]]
    seen: list[FrameResult | LostFrames] = []
    async for one in client.stream(images(), "m", policy=BLOCK):
        seen.append(one)
        asyncio.get_running_loop().call_later(0.2, reconnected.set)
    assert sequences(seen) == list(range(6))


async def test_who_leaves_the_stream_leaves_nothing_behind(client: AsyncClient) -> None:
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


def test_a_call_that_ended_under_a_write_was_cut() -> None:
    """FrameResult while other work took the cores: the status of the call is lost then."""

    def ended(code: grpc.StatusCode, words: str) -> type[BlemishError]:
        nothing = grpc.aio.Metadata()
        return type(translate_stream_error(grpc.aio.AioRpcError(code, nothing, nothing, words), "here"))

    assert issubclass(ended(grpc.StatusCode.INTERNAL, "Internal error from Core"), Unavailable)
    assert ended(grpc.StatusCode.INTERNAL, "internal error; the server's log tells more") is InternalError
