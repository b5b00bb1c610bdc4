# SPDX-License-Identifier: Apache-2.0
"""The frames of one stream between their arrival and their answers: in order, and bounded both ways.

A frame is begun at once while fewer than ``IN_FLIGHT`` of its stream are between their beginning and the
moment their answer has left. What becomes of it otherwise is the stream's policy. Answers leave in the
order in which frames came; so a reader that has stopped reading stops its own stream, and what that stream
holds is at most the frames in flight until they are answered, one that waits, and ``MOST_ANSWERS`` answers.

To begin is to stand in line for a lane. Under LATEST it is the camera that stands there, not the frame: a
newer one takes over the turn of one that still waits, so what is scored is the newest at that moment.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blemish.v1 import inspection_pb2 as pb
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import Overloaded
from blemish_server.converters.inspection import parse_image
from blemish_server.transport.status import frame_refusal

IN_FLIGHT = {
    # One in line, one in a lane, one on its way out; a longer line would only hold up others.
    pb.STREAM_POLICY_LATEST: 3,
    pb.STREAM_POLICY_BLOCK: 4,
    pb.STREAM_POLICY_REJECT: 4,
}
MOST_ANSWERS = 64
"""Answers not read yet from which on no frame is read either."""
MOST_READ = 64
"""Frames read between two answers that leave: a flood, or one whose answers nobody reads, is held back."""


class FrameSlot:
    """A place in line for a lane, and the frame that is to have it."""

    def __init__(self, frame: pb.Frame) -> None:
        self._frame = frame
        self._picture: ImageInput | None = None
        self._arrived_s = time.monotonic()
        self._come = False
        self._lock = threading.Lock()
        self.gone: list[pb.ScoreStreamResponse] = []
        """Of the frames that gave way in it: as ranges, each of one camera."""

    @property
    def arrived_s(self) -> float:
        """When its frame came, on ``time.monotonic()``'s clock."""
        return self._arrived_s

    def take(self) -> pb.Frame:
        """Return the frame that has it, for good; from any thread."""
        with self._lock:
            self._come = True
            return self._frame

    def picture(self) -> ImageInput:
        """Return what the frame shows, also to a thread; the first time takes it out of the message.

        Raises:
            InvalidRequest: if it shows nothing.
        """
        with self._lock:
            if self._picture is None:
                self._picture = parse_image(self._frame.image, "image")
                self._frame = _without_image(self._frame)
            return self._picture

    def give(self, newer: pb.Frame) -> bool:
        """Have a newer frame take over; False if the turn has come."""
        with self._lock:
            if self._come:
                return False
            older, self._frame, self._picture = self._frame, newer, None
            self._arrived_s = time.monotonic()
        if not self.gone or not _joined(self.gone[-1], older):
            self.gone.append(_dropped(older))
        return True

    def end(self) -> None:
        """Let go of the frame, which has been answered: it may be long until anyone reads that."""
        self._frame, self._picture = pb.Frame(), None


Score = Callable[[FrameSlot], Coroutine[Any, Any, pb.ScoreStreamResponse]]


@dataclass(frozen=True)
class _Begun:
    turn: FrameSlot
    answer: "asyncio.Task[pb.ScoreStreamResponse]"


class FrameQueue:
    """Answers frames by ``score``, which must not raise, as ``policy`` says."""

    def __init__(self, score: Score, policy: pb.StreamPolicy.ValueType) -> None:
        self._score = score
        self.policy = policy
        self._in_flight = 0
        self._waiting: pb.Frame | None = None
        self._answers: deque[_Begun | pb.ScoreStreamResponse] = deque()
        self._read_since = 0
        """Frames, since an answer has left."""
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
                if isinstance(oldest, _Begun):
                    answer = await oldest.answer
                    self._answers.popleft()
                    for gone in oldest.turn.gone:
                        yield gone
                    yield answer  # goes on when the answer has left
                    self._leave()
                else:
                    yield self._answers.popleft()  # type: ignore[misc]  # looked at above
                self._read_since = 0
                self._left.set()
            with suppress(asyncio.CancelledError):
                reader.result()
        finally:
            for task in (
                reader,
                stopper,
                *(one.answer for one in self._answers if isinstance(one, _Begun)),
            ):
                task.cancel()

    async def _read(self, frames: AsyncIterator[pb.Frame]) -> None:
        async for frame in frames:
            self.frames += 1
            self._read_since += 1
            self._take(frame)
            self._came.set()
            # What is not read waits in the connection, where flow control counts it.
            while self._is_full():
                self._left.clear()
                await self._left.wait()

    def _is_full(self) -> bool:
        held_back = self.policy == pb.STREAM_POLICY_BLOCK and self._waiting is not None
        last = self._answers[-1] if self._answers else None
        untold = len(last.turn.gone) if isinstance(last, _Begun) else 0
        return held_back or self._read_since >= MOST_READ or len(self._answers) + untold >= MOST_ANSWERS

    def _take(self, frame: pb.Frame) -> None:
        last = self._answers[-1] if self._answers else None
        if self.policy == pb.STREAM_POLICY_LATEST and isinstance(last, _Begun) and last.turn.give(frame):
            self.dropped += 1
        elif self._in_flight < IN_FLIGHT[self.policy]:
            self._begin(frame)
        elif self.policy == pb.STREAM_POLICY_REJECT:
            self.rejected += 1
            full = Overloaded(f"{self._in_flight} frames of this stream are being worked on already")
            self._answers.append(answer_to(frame, refusal=frame_refusal(full)))
        else:
            if self._waiting is not None:
                self._drop(self._waiting)
            self._waiting = frame

    def _begin(self, frame: pb.Frame) -> None:
        self._in_flight += 1
        turn = FrameSlot(frame)
        answer = asyncio.create_task(self._score(turn))
        answer.add_done_callback(lambda _: turn.end())
        self._answers.append(_Begun(turn, answer))

    def _leave(self) -> None:
        """Make the place of an answer that has left the next one's."""
        self._in_flight -= 1
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._begin(waiting)

    def _drop(self, frame: pb.Frame) -> None:
        """Note it: with the one before, if that is not told yet, so that a slow reader costs no memory."""
        self.dropped += 1
        last = self._answers[-1]
        if isinstance(last, _Begun) or not _joined(last, frame):
            self._answers.append(_dropped(frame))


def _without_image(frame: pb.Frame) -> pb.Frame:
    """A message gives back no memory, so what is left of it becomes another."""
    rest = pb.Frame(camera=frame.camera, sequence=frame.sequence)
    if frame.HasField("capture_time"):
        rest.capture_time.CopyFrom(frame.capture_time)
    return rest


def _dropped(frame: pb.Frame) -> pb.ScoreStreamResponse:
    return answer_to(frame, dropped=pb.DroppedFrames(last_sequence=frame.sequence))


def _joined(note: pb.ScoreStreamResponse, frame: pb.Frame) -> bool:
    """Whether ``frame`` went on the note of the one dropped before it."""
    follows = (note.camera, note.dropped.last_sequence + 1) == (frame.camera, frame.sequence)
    if not note.HasField("dropped") or not follows:
        return False
    note.dropped.last_sequence = frame.sequence
    return True


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
