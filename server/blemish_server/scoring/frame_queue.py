# SPDX-License-Identifier: Apache-2.0
"""The frames of one stream between their arrival and their results: in order, and bounded both ways.

A frame is started at once while fewer than ``IN_FLIGHT`` frames of its stream are between their start and
the departure of their result. The stream's policy decides about the others. Results leave in the order of
the frames, so a client that stops reading stops its own stream. Such a stream holds the frames in flight
until they are scored, one waiting frame, and ``MAX_RESULTS`` results.

A started frame waits for a lane in a slot. Under LATEST, a newer frame replaces the one in the last slot
until a lane claims it, so the lane always scores the newest frame.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from blemish_core.platform.errors import Overloaded


class StreamPolicy(StrEnum):
    """The treatment of frames that arrive while others of their stream are in flight."""

    LATEST = "latest"
    """Score the newest frame and drop those it supersedes."""
    BLOCK = "block"
    """Stop reading until there is space."""
    REJECT = "reject"
    """Reject the new frame."""


IN_FLIGHT = {
    # One queued, one in a lane, one on its way out: a longer queue would only delay other streams.
    StreamPolicy.LATEST: 3,
    StreamPolicy.BLOCK: 4,
    StreamPolicy.REJECT: 4,
}
MAX_RESULTS = 64
"""Unread results from which on no frame is read."""
MAX_READ = 64
"""Frames read between two departing results. This limits floods and clients that do not read results."""


@dataclass(frozen=True)
class FrameHeader:
    """A frame without its image."""

    camera: str
    sequence: int
    capture_time: tuple[int, int] | None = None
    """Seconds since 1970 and nanoseconds, as the client sent them."""


class QueuedFrame(Protocol):
    """A frame in the queue."""

    @property
    def header(self) -> FrameHeader:
        """Identity of the frame."""


Frame = TypeVar("Frame", bound=QueuedFrame)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ScoredFrame(Generic[Answer]):
    """The answer to a frame."""

    header: FrameHeader
    answer: Answer


@dataclass(frozen=True)
class RefusedFrame:
    """An error in place of the answer to a frame."""

    header: FrameHeader
    error: Exception


@dataclass
class DroppedFrames:
    """A range of consecutive frames of one camera that were superseded."""

    header: FrameHeader
    """Header of the first frame."""
    last_sequence: int

    def extend(self, frame: FrameHeader) -> bool:
        """Add ``frame`` if it follows the range. Return whether it does."""
        follows = (self.header.camera, self.last_sequence + 1) == (frame.camera, frame.sequence)
        if follows:
            self.last_sequence = frame.sequence
        return follows


class FrameSlot(Generic[Frame]):
    """A place in the queue for a lane, and the frame that holds it."""

    def __init__(self, frame: Frame) -> None:
        self._frame: Frame | None = frame
        self._header = frame.header
        self._arrived_s = time.monotonic()
        self._claimed = False
        self._lock = threading.Lock()
        self.superseded: list[DroppedFrames] = []
        """Frames that newer ones replaced in this slot."""

    @property
    def arrived_s(self) -> float:
        """Arrival of its frame on the clock of ``time.monotonic()``."""
        return self._arrived_s

    @property
    def header(self) -> FrameHeader:
        """Header of its frame, also after the frame was released."""
        return self._header

    @property
    def frame(self) -> Frame:
        """The frame that holds the slot now."""
        if self._frame is None:
            raise RuntimeError("the frame was released; this is a bug")
        return self._frame

    def claim(self) -> Frame:
        """Return the frame, which can no longer be replaced. Any thread may call this."""
        with self._lock:
            self._claimed = True
            return self.frame

    def replace_frame(self, newer: Frame) -> bool:
        """Put a newer frame into the slot. Return False if its frame has been claimed."""
        with self._lock:
            if self._claimed:
                return False
            older, self._header, self._frame = self._header, newer.header, newer
            self._arrived_s = time.monotonic()
        if not self.superseded or not self.superseded[-1].extend(older):
            self.superseded.append(DroppedFrames(older, older.sequence))
        return True

    def release(self) -> None:
        """Free the frame, because it may take long until the client reads its result."""
        with self._lock:
            self._claimed = True
            self._frame = None


Score = Callable[[FrameSlot[Frame]], Coroutine[Any, Any, Answer]]
Result = ScoredFrame[Answer] | RefusedFrame | DroppedFrames


@dataclass(frozen=True)
class _StartedFrame(Generic[Frame, Answer]):
    slot: FrameSlot[Frame]
    task: "asyncio.Task[ScoredFrame[Answer] | RefusedFrame]"


class FrameQueue(Generic[Frame, Answer]):
    """Scores the frames of a stream with ``score``, under its policy."""

    def __init__(self, score: Score[Frame, Answer], policy: StreamPolicy) -> None:
        self._score = score
        self.policy = policy
        self._in_flight = 0
        self._waiting: Frame | None = None
        self._results: deque[_StartedFrame[Frame, Answer] | RefusedFrame | DroppedFrames] = deque()
        self._read_since = 0
        """Frames read since a result left."""
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self.frames = 0
        self.dropped = 0
        self.rejected = 0

    @property
    def pending(self) -> int:
        """Number of results that have not left."""
        return len(self._results)

    async def results(
        self, frames: AsyncIterator[Frame], stopping: asyncio.Event
    ) -> AsyncGenerator[Result[Answer]]:
        """Yield a result for each frame, or for each range of dropped frames.

        After ``stopping`` is set, only frames that were read before get results. Errors of ``frames`` are
        raised after the results of the frames before them.
        """
        reader = asyncio.create_task(self._read(frames))
        reader.add_done_callback(lambda _: self._arrived.set())
        stopper = asyncio.create_task(cancel_when(stopping, reader))
        try:
            while self._results or not reader.done():
                if not self._results:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                oldest = self._results[0]
                if isinstance(oldest, _StartedFrame):
                    result = await oldest.task
                    self._results.popleft()
                    for dropped in oldest.slot.superseded:
                        yield dropped
                    yield result  # resumes when the result has left
                    self._free_place()
                else:
                    self._results.popleft()
                    yield oldest
                self._read_since = 0
                self._left.set()
            with suppress(asyncio.CancelledError):
                reader.result()
        finally:
            started = (each.task for each in self._results if isinstance(each, _StartedFrame))
            for task in (reader, stopper, *started):
                task.cancel()

    async def _read(self, frames: AsyncIterator[Frame]) -> None:
        async for frame in frames:
            self.frames += 1
            self._read_since += 1
            self._add(frame)
            self._arrived.set()
            # Unread frames wait in the connection, where flow control limits them.
            while self._is_full():
                self._left.clear()
                await self._left.wait()

    def _is_full(self) -> bool:
        blocked = self.policy is StreamPolicy.BLOCK and self._waiting is not None
        last = self._results[-1] if self._results else None
        superseded = len(last.slot.superseded) if isinstance(last, _StartedFrame) else 0
        return blocked or self._read_since >= MAX_READ or len(self._results) + superseded >= MAX_RESULTS

    def _add(self, frame: Frame) -> None:
        last = self._results[-1] if self._results else None
        replaceable = self.policy is StreamPolicy.LATEST and isinstance(last, _StartedFrame)
        if replaceable and last.slot.replace_frame(frame):  # type: ignore[union-attr]
            self.dropped += 1
        elif self._in_flight < IN_FLIGHT[self.policy]:
            self._start(frame)
        elif self.policy is StreamPolicy.REJECT:
            self.rejected += 1
            full = Overloaded(
                f"{self._in_flight} frames of this stream are in progress already; send fewer frames"
            )
            self._results.append(RefusedFrame(frame.header, full))
        else:
            if self._waiting is not None:
                self._drop(self._waiting.header)
            self._waiting = frame

    def _start(self, frame: Frame) -> None:
        self._in_flight += 1
        slot = FrameSlot(frame)
        self._results.append(_StartedFrame(slot, asyncio.create_task(self._scored(slot))))

    async def _scored(self, slot: FrameSlot[Frame]) -> ScoredFrame[Answer] | RefusedFrame:
        try:
            answer = await self._score(slot)
            return ScoredFrame(slot.header, answer)
        except Exception as error:
            return RefusedFrame(slot.header, _without_tracebacks(error))
        finally:
            slot.release()

    def _free_place(self) -> None:
        """Start the waiting frame in the place of one whose result has left."""
        self._in_flight -= 1
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._start(waiting)

    def _drop(self, frame: FrameHeader) -> None:
        """Note a dropped frame in the last range if it follows, so that slow readers cost no memory."""
        self.dropped += 1
        last = self._results[-1]
        if not isinstance(last, DroppedFrames) or not last.extend(frame):
            self._results.append(DroppedFrames(frame, frame.sequence))


def _without_tracebacks(error: Exception) -> Exception:
    """Free the local variables that an error refers to, among them the image."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def cancel_when(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Cancel a task once an event is set."""
    await event.wait()
    task.cancel()
