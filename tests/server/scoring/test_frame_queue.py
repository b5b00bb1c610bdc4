# SPDX-License-Identifier: Apache-2.0
"""The frames of a stream: in order, each scored or reported as dropped, bounded both ways."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest

from blemish_core.platform.errors import InvalidRequest, Overloaded
from blemish_server.scoring.frame_queue import (
    IN_FLIGHT,
    MAX_READ,
    MAX_RESULTS,
    DroppedFrames,
    FrameHeader,
    FrameQueue,
    FrameSlot,
    RefusedFrame,
    Result,
    ScoredFrame,
    StreamPolicy,
)

LATEST, BLOCK, REJECT = StreamPolicy.LATEST, StreamPolicy.BLOCK, StreamPolicy.REJECT
ANY_POLICY = pytest.mark.parametrize("policy", list(StreamPolicy))

pytestmark = pytest.mark.timeout(10)

Summary = tuple[str, int, int]
"""Kind of a result, and the first and last sequence that it covers."""


class Frame:
    """A frame whose lifetime tests can watch."""

    def __init__(self, sequence: int, camera: str) -> None:
        self.header = FrameHeader(camera, sequence)


class FakeCamera:
    """A source of frames under the control of a test, with a scorer that answers with the sequence."""

    def __init__(self, policy: StreamPolicy) -> None:
        self.queue = FrameQueue(self._score, policy)
        self.stopping = asyncio.Event()
        self.claimed: list[int] = []
        self.frames: list[weakref.ref[Frame]] = []
        self.read = 0
        self.lane: asyncio.Event | None = None
        """Set when a lane is free; None if one always is."""
        self.errors: dict[int, Exception] = {}
        self._permissions: dict[int, asyncio.Event] = {}
        self._sent: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()

    def send(self, *sequences: int, camera: str = "left") -> None:
        for sequence in sequences:
            self._sent.put_nowait(Frame(sequence, camera))

    async def send_slowly(self, *sequences: int) -> None:
        """Send each frame after the one before was claimed."""
        for sequence in sequences:
            self.send(sequence)
            await settle()

    def close(self, error: Exception | None = None) -> None:
        self._sent.put_nowait(error)

    def permit(self, *sequences: int) -> None:
        """Let the scorer finish these frames."""
        for sequence in sequences:
            self._permission(sequence).set()

    def results(self) -> AsyncIterator[Result[int]]:
        return self.queue.results(self._frames(), self.stopping)

    async def summaries(self) -> list[Summary]:
        return [summary(result) async for result in self.results()]

    async def _frames(self) -> AsyncIterator[Frame]:
        while (frame := await self._sent.get()) is not None:
            if isinstance(frame, Exception):
                raise frame
            self.read += 1
            self.frames.append(weakref.ref(frame))
            yield frame
            del frame

    async def _score(self, slot: FrameSlot[Frame]) -> int:
        if self.lane is not None:
            await self.lane.wait()
        frame = slot.claim()  # a local variable, which the traceback of an error would keep alive
        sequence = frame.header.sequence
        self.claimed.append(sequence)
        await self._permission(sequence).wait()
        if sequence in self.errors:
            raise self.errors[sequence]
        return sequence

    def _permission(self, sequence: int) -> asyncio.Event:
        return self._permissions.setdefault(sequence, asyncio.Event())


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def summary(result: Result[int]) -> Summary:
    sequence = result.header.sequence
    match result:
        case ScoredFrame():
            assert result.answer == sequence
            return "scored", sequence, sequence
        case RefusedFrame():
            return "refused", sequence, sequence
        case DroppedFrames():
            return "dropped", sequence, result.last_sequence


def scored(*sequences: int) -> list[Summary]:
    return [("scored", sequence, sequence) for sequence in sequences]


@ANY_POLICY
async def test_results_keep_the_order_of_the_frames(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    results = asyncio.create_task(camera.summaries())
    await camera.send_slowly(*range(IN_FLIGHT[policy]))
    camera.close()
    camera.permit(1)
    await settle()
    assert not results.done()
    camera.permit(*range(IN_FLIGHT[policy]))
    assert await results == scored(*range(IN_FLIGHT[policy]))


@ANY_POLICY
async def test_scored_frame_is_freed_before_its_result_is_read(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    camera.permit(0, 1)
    camera.errors[1] = InvalidRequest("not an image")
    await camera.send_slowly(0)
    results = camera.results()
    assert summary(await anext(results)) == ("scored", 0, 0)
    await camera.send_slowly(1, 2, 3)
    gc.collect()
    alive = [frame() is not None for frame in camera.frames]
    assert alive[:3] == [False, False, True], "refused ones too, the one in a lane not yet"
    assert summary(await anext(results)) == ("refused", 1, 1)


async def test_latest_scores_the_newest_frame_and_reports_the_others() -> None:
    camera = FakeCamera(LATEST)
    results = asyncio.create_task(camera.summaries())
    await camera.send_slowly(*range(10))
    camera.close()
    assert camera.claimed == [0, 1, 2]
    camera.permit(*range(10))
    assert await results == [*scored(0, 1, 2), ("dropped", 3, 8), *scored(9)]
    assert (camera.queue.frames, camera.queue.dropped) == (10, 6)


async def test_dropped_range_covers_only_frames_that_were_sent() -> None:
    camera = FakeCamera(LATEST)
    results = asyncio.create_task(camera.summaries())
    await camera.send_slowly(0, 1, 2, 3, 7, 8)
    camera.send(9, camera="right")
    camera.send(10)
    camera.close()
    await settle()
    camera.permit(*range(11))
    assert await results == [
        *scored(0, 1, 2),
        ("dropped", 3, 3),
        ("dropped", 7, 8),
        ("dropped", 9, 9),
        *scored(10),
    ]


async def test_block_reads_only_while_there_is_space() -> None:
    camera = FakeCamera(BLOCK)
    camera.send(*range(20))
    camera.close()
    results = asyncio.create_task(camera.summaries())
    await settle()
    assert camera.claimed == [0, 1, 2, 3]
    assert camera.read == 5  # one more waits
    camera.permit(0)
    await settle()
    assert camera.read == 6
    camera.permit(*range(20))
    assert await results == scored(*range(20))


async def test_reject_refuses_in_the_order_of_the_frames() -> None:
    camera = FakeCamera(REJECT)
    camera.send(*range(6))
    results = camera.results()
    first = asyncio.ensure_future(anext(results))
    await settle()
    camera.permit(*range(4))
    assert summary(await first) == ("scored", 0, 0)
    camera.close()
    rest = [result async for result in results]
    assert [summary(result) for result in rest] == [
        *scored(1, 2, 3),
        ("refused", 4, 4),
        ("refused", 5, 5),
    ]
    assert isinstance(rest[3], RefusedFrame)
    assert isinstance(rest[3].error, Overloaded)
    assert camera.queue.rejected == 2


@ANY_POLICY
async def test_error_of_the_scorer_refuses_one_frame(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    camera.errors[1] = InvalidRequest("not an image")
    camera.permit(0, 1, 2)
    results = asyncio.create_task(camera.summaries())
    await camera.send_slowly(0, 1, 2)
    camera.close()
    assert await results == [*scored(0), ("refused", 1, 1), *scored(2)]


@ANY_POLICY
async def test_client_that_stops_reading_costs_a_bounded_amount(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    camera.permit(*range(4000))
    results = camera.results()
    first = asyncio.ensure_future(anext(results))
    await camera.send_slowly(0, 2, 4, 6)
    camera.send(*range(8, 4000, 2))  # gaps, so that no two share a range
    assert summary(await first) == ("scored", 0, 0)
    await settle()
    # The first result has left and no other is requested.
    assert camera.queue.pending <= MAX_RESULTS + 1
    assert len(camera.claimed) <= IN_FLIGHT[policy]
    assert camera.read <= MAX_RESULTS + IN_FLIGHT[policy] + 2


async def test_consecutive_dropped_frames_share_one_result() -> None:
    camera = FakeCamera(LATEST)
    results = camera.results()
    first = asyncio.ensure_future(anext(results))
    await camera.send_slowly(0, 1, 2)
    camera.send(*range(3, 60))
    camera.close()
    await settle()
    assert camera.read == 60
    assert camera.queue.pending == 4
    camera.permit(*range(60))
    assert summary(await first) == ("scored", 0, 0)
    assert [summary(result) async for result in results] == [
        *scored(1, 2),
        ("dropped", 3, 58),
        *scored(59),
    ]


async def test_flood_is_held_back_while_no_result_leaves() -> None:
    camera = FakeCamera(LATEST)
    results = camera.results()
    first = asyncio.ensure_future(anext(results))
    await camera.send_slowly(0, 1, 2)
    camera.send(*range(3, 5000))
    await settle()
    assert camera.read == MAX_READ
    camera.permit(*range(5000))
    assert summary(await first) == ("scored", 0, 0)
    assert summary(await anext(results)) == ("scored", 1, 1)
    await settle()
    assert MAX_READ < camera.read <= 2 * MAX_READ  # reading continues as results leave


@pytest.mark.parametrize("policy", [LATEST, BLOCK])
async def test_frames_read_before_the_stop_get_results(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    camera.send(*range(50))
    results = asyncio.create_task(camera.summaries())
    await settle()
    read = camera.read
    camera.stopping.set()
    await settle()
    camera.permit(*range(50))
    covered = [number for _, first, last in await results for number in range(first, last + 1)]
    assert covered == list(range(read))


async def test_error_of_the_source_is_raised_after_earlier_results() -> None:
    camera = FakeCamera(BLOCK)
    camera.send(0)
    camera.close(InvalidRequest("not a frame"))
    camera.permit(0)
    results = camera.results()
    assert summary(await anext(results)) == ("scored", 0, 0)
    with pytest.raises(InvalidRequest, match="not a frame"):
        await anext(results)


async def test_cancelled_stream_leaves_no_tasks() -> None:
    camera = FakeCamera(BLOCK)
    camera.send(*range(20))
    results = asyncio.create_task(camera.summaries())
    await settle()
    results.cancel()
    await asyncio.gather(results, return_exceptions=True)
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_latest_replaces_the_frame_in_a_slot_until_it_is_claimed() -> None:
    camera = FakeCamera(LATEST)
    camera.lane = asyncio.Event()
    camera.send(*range(6))
    camera.send(9)
    camera.permit(*range(10))
    results = asyncio.create_task(camera.summaries())
    await settle()
    assert camera.read == 7
    camera.lane.set()
    await settle()
    assert camera.claimed == [9]
    camera.send(10)
    camera.close()
    camera.permit(10)
    assert await results == [("dropped", 0, 5), *scored(9, 10)]
    assert camera.queue.dropped == 6


@pytest.mark.parametrize("policy", [BLOCK, REJECT])
async def test_other_policies_give_each_frame_its_own_slot(policy: StreamPolicy) -> None:
    camera = FakeCamera(policy)
    camera.lane = asyncio.Event()
    camera.send(*range(4))
    camera.close()
    camera.permit(*range(4))
    results = asyncio.create_task(camera.summaries())
    await settle()
    camera.lane.set()
    assert await results == scored(0, 1, 2, 3)


async def test_dropped_ranges_of_an_unclaimed_slot_are_bounded() -> None:
    camera = FakeCamera(LATEST)
    camera.lane = asyncio.Event()
    camera.send(*range(0, 4000, 2))  # gaps, so that no two share a range
    results = asyncio.create_task(camera.summaries())
    while camera.read < MAX_RESULTS - 1:
        await asyncio.sleep(0)
    await settle()
    assert camera.read <= MAX_RESULTS + 1
    results.cancel()
    await asyncio.gather(results, return_exceptions=True)
