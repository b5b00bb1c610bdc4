# SPDX-License-Identifier: Apache-2.0
"""A stream's frames: in order, each answered or named as dropped, bounded both ways."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from grpc import StatusCode

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK as BLOCK
from blemish.v1.inspection_pb2 import STREAM_POLICY_LATEST as LATEST
from blemish.v1.inspection_pb2 import STREAM_POLICY_REJECT as REJECT
from blemish_core.platform.errors import InvalidRequest
from blemish_server.scoring.frame_queue import (
    IN_FLIGHT,
    MOST_ANSWERS,
    MOST_READ,
    FrameQueue,
    FrameSlot,
    answer_to,
)

Told = tuple[str, int, int]


class Camera:
    """Frames as the test sends them, and a scorer that answers when it is let."""

    def __init__(self, policy: pb.StreamPolicy.ValueType) -> None:
        self.line = FrameQueue(self._score, policy)
        self.ending = asyncio.Event()
        self.begun: list[int] = []
        self.turns: list[FrameSlot] = []
        self.read = 0
        self.queue: asyncio.Event | None = None
        """Set when turns may come; None lets them come at once."""
        self._may: dict[int, asyncio.Event] = {}
        self._sent: asyncio.Queue[pb.Frame | Exception | None] = asyncio.Queue()

    def send(self, *sequences: int, camera: str = "left") -> None:
        for sequence in sequences:
            frame = pb.Frame(camera=camera, sequence=sequence)
            frame.image.encoded = b"a picture"
            self._sent.put_nowait(frame)

    async def send_slowly(self, *sequences: int) -> None:
        """Have the turn of each come before the next is sent."""
        for sequence in sequences:
            self.send(sequence)
            await settled()

    def end(self, error: Exception | None = None) -> None:
        self._sent.put_nowait(error)

    def let(self, *sequences: int) -> None:
        for sequence in sequences:
            self._permission(sequence).set()

    def answers(self) -> AsyncIterator[pb.ScoreStreamResponse]:
        return self.line.answers(self._frames(), self.ending)

    async def _frames(self) -> AsyncIterator[pb.Frame]:
        while (frame := await self._sent.get()) is not None:
            if isinstance(frame, Exception):
                raise frame
            self.read += 1
            yield frame

    async def _score(self, turn: FrameSlot) -> pb.ScoreStreamResponse:
        if self.queue is not None:
            await self.queue.wait()
        turn.picture()
        frame = turn.take()
        self.begun.append(frame.sequence)
        self.turns.append(turn)
        await self._permission(frame.sequence).wait()
        return answer_to(frame, inspection=pb.Inspection(score=frame.sequence))

    def _permission(self, sequence: int) -> asyncio.Event:
        return self._may.setdefault(sequence, asyncio.Event())


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def told(answer: pb.ScoreStreamResponse) -> Told:
    kind = str(answer.WhichOneof("answer"))
    last = answer.dropped.last_sequence if kind == "dropped" else answer.sequence
    return kind, answer.sequence, last


async def collected(camera: Camera) -> list[Told]:
    return [told(answer) async for answer in camera.answers()]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize("policy", [LATEST, BLOCK, REJECT])
def test_answers_come_in_the_order_of_the_frames_whichever_is_done_first(
    policy: pb.StreamPolicy.ValueType,
) -> None:
    async def test() -> None:
        camera = Camera(policy)
        answers = asyncio.create_task(collected(camera))
        await camera.send_slowly(*range(IN_FLIGHT[policy]))
        camera.end()
        camera.let(1)
        await settled()
        assert not answers.done()
        camera.let(*range(IN_FLIGHT[policy]))
        assert await answers == [("inspection", number, number) for number in range(IN_FLIGHT[policy])]

    run(test)


@pytest.mark.parametrize("policy", [LATEST, BLOCK, REJECT])
def test_a_frame_that_was_answered_is_held_no_longer_though_nobody_reads_the_answer(
    policy: pb.StreamPolicy.ValueType,
) -> None:
    async def test() -> None:
        camera = Camera(policy)
        camera.let(0, 1)
        await camera.send_slowly(0)
        answers = camera.answers()
        assert told(await anext(answers)) == ("inspection", 0, 0)
        await camera.send_slowly(1, 2)
        for turn in camera.turns[:2]:
            with pytest.raises(InvalidRequest, match="is empty"):
                turn.picture()
        assert camera.turns[2].picture().data == b"a picture"
        assert not camera.turns[2].take().HasField("image")  # held once, not twice
        assert told(await anext(answers)) == ("inspection", 1, 1)

    run(test)


def test_latest_keeps_the_newest_and_names_the_others() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        answers = asyncio.create_task(collected(camera))
        await camera.send_slowly(*range(10))
        camera.end()
        assert camera.begun == [0, 1, 2]
        camera.let(*range(10))
        assert await answers == [
            ("inspection", 0, 0),
            ("inspection", 1, 1),
            ("inspection", 2, 2),
            ("dropped", 3, 8),
            ("inspection", 9, 9),
        ]
        assert (camera.line.frames, camera.line.dropped) == (10, 6)

    run(test)


def test_a_range_of_dropped_frames_names_none_that_never_came() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        answers = asyncio.create_task(collected(camera))
        await camera.send_slowly(0, 1, 2, 3, 7, 8)
        camera.send(9, camera="right")
        camera.send(10)
        camera.end()
        await settled()
        camera.let(*range(11))
        assert await answers == [
            ("inspection", 0, 0),
            ("inspection", 1, 1),
            ("inspection", 2, 2),
            ("dropped", 3, 3),
            ("dropped", 7, 8),
            ("dropped", 9, 9),
            ("inspection", 10, 10),
        ]

    run(test)


def test_block_reads_no_further_than_there_is_room() -> None:
    async def test() -> None:
        camera = Camera(BLOCK)
        camera.send(*range(20))
        camera.end()
        answers = asyncio.create_task(collected(camera))
        await settled()
        assert camera.begun == [0, 1, 2, 3]
        assert camera.read == 5  # one more waits
        camera.let(0)
        await settled()
        assert camera.read == 6
        camera.let(*range(20))
        assert await answers == [("inspection", number, number) for number in range(20)]

    run(test)


def test_reject_refuses_at_the_place_of_the_frame() -> None:
    async def test() -> None:
        camera = Camera(REJECT)
        camera.send(*range(6))
        answers = camera.answers()
        first = asyncio.ensure_future(anext(answers))
        await settled()
        camera.let(*range(4))
        assert told(await first) == ("inspection", 0, 0)
        camera.end()
        rest = [answer async for answer in answers]
        assert [told(answer)[:2] for answer in rest] == [
            ("inspection", 1),
            ("inspection", 2),
            ("inspection", 3),
            ("refusal", 4),
            ("refusal", 5),
        ]
        code, _ = StatusCode.RESOURCE_EXHAUSTED.value
        assert (rest[3].refusal.code, rest[3].refusal.reason) == (code, "OVERLOADED")
        assert rest[3].refusal.HasField("retry_delay")

    run(test)


@pytest.mark.parametrize("policy", [LATEST, BLOCK, REJECT])
def test_a_reader_that_stopped_reading_costs_a_bounded_amount(policy: pb.StreamPolicy.ValueType) -> None:
    async def test() -> None:
        camera = Camera(policy)
        camera.let(*range(4000))
        answers = camera.answers()
        first = asyncio.ensure_future(anext(answers))
        await camera.send_slowly(0, 2, 4, 6)
        camera.send(*range(8, 4000, 2))  # gaps: no two can be told in one range
        assert told(await first) == ("inspection", 0, 0)
        await settled()
        # The answer has been handed over and nobody asks for the next.
        assert len(camera.line._answers) <= MOST_ANSWERS + 1
        assert len(camera.begun) <= IN_FLIGHT[policy]
        assert camera.read <= MOST_ANSWERS + IN_FLIGHT[policy] + 2

    run(test)


def test_frames_dropped_in_a_row_are_one_note_however_many() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        answers = camera.answers()
        first = asyncio.ensure_future(anext(answers))
        await camera.send_slowly(0, 1, 2)
        camera.send(*range(3, 60))
        camera.end()
        await settled()
        assert camera.read == 60
        assert len(camera.line._answers) == 4
        camera.let(*range(60))
        assert told(await first) == ("inspection", 0, 0)
        assert [told(answer) async for answer in answers] == [
            ("inspection", 1, 1),
            ("inspection", 2, 2),
            ("dropped", 3, 58),
            ("inspection", 59, 59),
        ]

    run(test)


def test_a_flood_is_held_back_while_no_answer_leaves() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        answers = camera.answers()
        first = asyncio.ensure_future(anext(answers))
        await camera.send_slowly(0, 1, 2)
        camera.send(*range(3, 5000))
        await settled()
        assert camera.read == MOST_READ
        camera.let(*range(5000))
        assert told(await first) == ("inspection", 0, 0)
        assert told(await anext(answers)) == ("inspection", 1, 1)
        await settled()
        assert MOST_READ < camera.read <= 2 * MOST_READ  # goes on as answers leave

    run(test)


@pytest.mark.parametrize("policy", [LATEST, BLOCK])
def test_at_the_ending_all_that_was_read_is_answered(policy: pb.StreamPolicy.ValueType) -> None:
    async def test() -> None:
        camera = Camera(policy)
        camera.send(*range(50))
        answers = asyncio.create_task(collected(camera))
        await settled()
        read = camera.read
        camera.ending.set()
        await settled()
        camera.let(*range(50))
        covered = [number for _, first, last in await answers for number in range(first, last + 1)]
        assert covered == list(range(read))

    run(test)


def test_what_is_wrong_with_the_frames_is_raised_after_the_answers_before_it() -> None:
    async def test() -> None:
        camera = Camera(BLOCK)
        camera.send(0)
        camera.end(InvalidRequest("not a frame"))
        camera.let(0)
        answers = camera.answers()
        assert told(await anext(answers)) == ("inspection", 0, 0)
        with pytest.raises(InvalidRequest, match="not a frame"):
            await anext(answers)

    run(test)


def test_a_camera_that_vanishes_leaves_nothing_behind() -> None:
    async def test() -> None:
        camera = Camera(BLOCK)
        camera.send(*range(20))
        answers = asyncio.create_task(collected(camera))
        await settled()
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_under_latest_a_newer_frame_takes_over_the_turn_of_one_that_waits() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        camera.queue = asyncio.Event()
        camera.send(*range(6))
        camera.send(9)
        camera.let(*range(10))
        answers = asyncio.create_task(collected(camera))
        await settled()
        assert camera.read == 7
        camera.queue.set()  # one turn comes: the newest frame has it
        await settled()
        assert camera.begun == [9]
        camera.send(10)
        camera.end()
        camera.let(10)
        assert await answers == [
            ("dropped", 0, 5),
            ("inspection", 9, 9),
            ("inspection", 10, 10),
        ]
        assert camera.line.dropped == 6

    run(test)


@pytest.mark.parametrize("policy", [BLOCK, REJECT])
def test_otherwise_every_frame_has_its_own_turn(policy: pb.StreamPolicy.ValueType) -> None:
    async def test() -> None:
        camera = Camera(policy)
        camera.queue = asyncio.Event()
        camera.send(*range(4))
        camera.end()
        camera.let(*range(4))
        answers = asyncio.create_task(collected(camera))
        await settled()
        camera.queue.set()
        assert await answers == [("inspection", number, number) for number in range(4)]

    run(test)


def test_notes_of_a_turn_that_does_not_come_are_bounded() -> None:
    async def test() -> None:
        camera = Camera(LATEST)
        camera.queue = asyncio.Event()
        camera.send(*range(0, 4000, 2))  # gaps: no two can be told in one range
        answers = asyncio.create_task(collected(camera))
        while camera.read < MOST_ANSWERS - 1:
            await asyncio.sleep(0)
        await settled()
        assert camera.read <= MOST_ANSWERS + 1
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)

    run(test)
