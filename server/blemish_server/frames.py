# SPDX-License-Identifier: Apache-2.0
"""The frames of one stream between their arrival and their answers: in order, and bounded both ways.

A frame is begun at once while fewer than ``IN_FLIGHT`` of its stream are between their beginning and the
moment their answer has left. What becomes of it otherwise is the stream's policy. Answers leave in the
order in which frames came; so a reader that has stopped reading stops its own stream, and what that stream
holds is at most the frames in flight, one that waits, and ``MOST_ANSWERS`` answers.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from blemish.v1 import inspection_pb2 as pb
from blemish_core.errors import Overloaded
from blemish_server.status import frame_refusal

IN_FLIGHT = {
    # One is decoded while one is computed; a longer line would only make the newest frame older.
    pb.STREAM_POLICY_LATEST: 2,
    pb.STREAM_POLICY_BLOCK: 4,
    pb.STREAM_POLICY_REJECT: 4,
}
MOST_ANSWERS = 64
"""Answers not read yet from which on no frame is read either."""

Score = Callable[[pb.Frame], Coroutine[Any, Any, pb.ScoreStreamResponse]]


class FrameLine:
    """Answers frames by ``score``, which must not raise, as ``policy`` says."""

    def __init__(self, score: Score, policy: pb.StreamPolicy.ValueType) -> None:
        self._score = score
        self._policy = policy
        self._in_flight = 0
        self._waiting: pb.Frame | None = None
        self._answers: deque[asyncio.Task[pb.ScoreStreamResponse] | pb.ScoreStreamResponse] = deque()
        self._came = asyncio.Event()
        self._left = asyncio.Event()
        self.frames = 0
        self.dropped = 0
        self.rejected = 0

    async def answers(
        self, frames: AsyncIterator[pb.Frame], ending: asyncio.Event
    ) -> AsyncGenerator[pb.ScoreStreamResponse]:
        """Yield an answer for every frame; after ``ending`` only for those that have been read already.

        Raises whatever ``frames`` raises, after the answers to the frames before.
        """
        reader = asyncio.create_task(self._read(frames))
        reader.add_done_callback(lambda _: self._came.set())
        stopper = asyncio.create_task(cancel_at(ending, reader))
        try:
            while self._answers or not reader.done():
                if not self._answers:
                    self._came.clear()
                    await self._came.wait()
                    continue
                oldest = self._answers[0]
                scored = isinstance(oldest, asyncio.Task)
                answer = await oldest if isinstance(oldest, asyncio.Task) else oldest
                self._answers.popleft()
                yield answer  # goes on when the answer has left
                self._in_flight -= scored
                if self._waiting is not None and self._in_flight < IN_FLIGHT[self._policy]:
                    waiting, self._waiting = self._waiting, None
                    self._begin(waiting)
                self._left.set()
            with suppress(asyncio.CancelledError):
                reader.result()
        finally:
            for task in (reader, stopper, *self._answers):
                if isinstance(task, asyncio.Task):
                    task.cancel()

    async def _read(self, frames: AsyncIterator[pb.Frame]) -> None:
        async for frame in frames:
            self.frames += 1
            self._take(frame)
            self._came.set()
            # What is not read waits in the connection, where flow control counts it.
            while self._is_full():
                self._left.clear()
                await self._left.wait()

    def _is_full(self) -> bool:
        held_back = self._policy == pb.STREAM_POLICY_BLOCK and self._waiting is not None
        return held_back or len(self._answers) >= MOST_ANSWERS

    def _take(self, frame: pb.Frame) -> None:
        if self._in_flight < IN_FLIGHT[self._policy]:
            self._begin(frame)
        elif self._policy == pb.STREAM_POLICY_REJECT:
            self.rejected += 1
            full = Overloaded(f"{self._in_flight} frames of this stream are being worked on already")
            self._answers.append(answer_to(frame, refusal=frame_refusal(full)))
        else:
            if self._waiting is not None:
                self._drop(self._waiting)
            self._waiting = frame

    def _begin(self, frame: pb.Frame) -> None:
        self._in_flight += 1
        self._answers.append(asyncio.create_task(self._score(frame)))

    def _drop(self, frame: pb.Frame) -> None:
        """Note it: with the one before, if that is not told yet, so that a slow reader costs no memory."""
        self.dropped += 1
        last = self._answers[-1]
        if (
            isinstance(last, pb.ScoreStreamResponse)
            and last.HasField("dropped")
            and (last.camera, last.dropped.last_sequence + 1) == (frame.camera, frame.sequence)
        ):
            last.dropped.last_sequence = frame.sequence
        else:
            gone = pb.DroppedFrames(last_sequence=frame.sequence)
            self._answers.append(answer_to(frame, dropped=gone))


def answer_to(
    frame: pb.Frame,
    *,
    inspection: pb.Inspection | None = None,
    refusal: pb.FrameRefusal | None = None,
    dropped: pb.DroppedFrames | None = None,
) -> pb.ScoreStreamResponse:
    """Return one of the three as what is said of ``frame``."""
    answer = pb.ScoreStreamResponse(
        camera=frame.camera,
        sequence=frame.sequence,
        inspection=inspection,
        refusal=refusal,
        dropped=dropped,
    )
    if frame.HasField("capture_time"):
        answer.capture_time.CopyFrom(frame.capture_time)
    return answer


async def cancel_at(ending: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Have a reader stop reading at ``ending``."""
    await ending.wait()
    task.cancel()
