# SPDX-License-Identifier: Apache-2.0
"""A camera: frames of a source to a server and answers back, through a server that goes and comes."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1.inspection_pb2 import (
    STREAM_POLICY_BLOCK,
    Frame,
    ScoreStreamRequest,
    ScoreStreamResponse,
    StreamConfig,
)
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client.connection import Connection
from blemish_client.errors import BlemishError, Unavailable, translated

# Under BLOCK the server works on four frames of a stream and takes one more; what is sent beyond waits in
# the connection, where it only gets older.
_AHEAD = 8


@dataclass(frozen=True)
class Seen:
    """An answer, and what only the camera knows of its frame."""

    answer: ScoreStreamResponse
    image: bytes
    """As it was sent; of the first frame where several were dropped."""
    latency_s: float
    """From the frame's leaving the source to its answer."""


@dataclass(frozen=True)
class Lost:
    """Frames that a cut connection took along; under BLOCK they are sent again instead."""

    sequences: tuple[int, ...]
    cause: str


@dataclass(frozen=True)
class _Sent:
    frame: Frame
    at_s: float


class Camera:
    """One stream of frames, numbered from ``first`` on, whatever happens to the connection."""

    def __init__(
        self,
        connection: Connection,
        config: StreamConfig,
        images: Iterable[bytes],
        *,
        name: str = "",
        first: int = 0,
    ) -> None:
        self._connection = connection
        self._config = config
        self._images = iter(images)
        self._name = name
        self._next = first
        # What awaits an answer, oldest first; answers come in this order.
        self._unanswered: deque[_Sent] = deque()
        self._again: deque[_Sent] = deque()
        self._lock = threading.Condition()
        self._source = threading.Lock()
        self._failure: Exception | None = None
        self._exhausted = False

    def run(self) -> Iterator[Seen | Lost]:
        """Yield an answer for every frame, in order, until the source is at its end.

        A cut stream is opened again, for as long as patience lasts between two answers.

        Raises:
            Unavailable: if nobody answers for longer.
            BlemishError: if the server refuses the stream.
            Exception: what the source raised.
        """
        patience = self._connection.patience
        give_up = time.monotonic() + patience.call_s
        pauses_s = patience.pauses_s()
        while True:
            try:
                for seen in self._once():
                    give_up = time.monotonic() + patience.watch_s
                    pauses_s = patience.pauses_s()
                    yield seen
                cause, retry_s = "the server ended the stream", 0.0
            except Unavailable as error:
                if time.monotonic() > give_up:
                    raise
                cause, retry_s = error.message, error.retry_after_s or 0.0
            if lost := self._taken_up():
                yield Lost(lost, cause)
            if self._exhausted and not self._again:
                return
            time.sleep(max(next(pauses_s), retry_s))

    def _once(self) -> Iterator[Seen]:
        """Yield the answers of one connection."""
        stub = InspectionServiceStub(self._connection.channel)
        closed = threading.Event()
        answers = stub.ScoreStream(self._requests(closed))
        try:
            for answer in answers:
                if answer.WhichOneof("answer") == "ending":
                    return
                yield self._matched(answer)
        except grpc.RpcError as error:
            if self._failure is not None:
                raise self._failure from error
            raise translated(error, self._connection.target) from error
        finally:
            with self._lock:
                closed.set()
                self._lock.notify_all()
            answers.cancel()

    def _requests(self, closed: threading.Event) -> Iterator[ScoreStreamRequest]:
        """Runs in grpc's thread, as fast as flow control lets it."""
        yield ScoreStreamRequest(config=self._config)
        while (sent := self._next_to_send(closed)) is not None:
            yield ScoreStreamRequest(frame=sent.frame)

    def _next_to_send(self, closed: threading.Event) -> _Sent | None:
        """Return a frame that awaits an answer from now on, None if there is none left to send."""
        while True:
            with self._lock:
                while self._is_ahead() and not closed.is_set():
                    self._lock.wait()
                if closed.is_set():
                    return None
                if self._again:
                    self._unanswered.append(self._again.popleft())
                    return self._unanswered[-1]
            # A source may outlast its connection: what it gives then comes first in the next one.
            with self._source:
                if self._again:
                    continue
                return self._of_source(closed)

    def _of_source(self, closed: threading.Event) -> _Sent | None:
        if closed.is_set():
            return None
        try:
            sent = self._taken()
        except StopIteration:
            self._exhausted = True
            return None
        except Exception as error:
            # Of grpc's thread; told in the caller's.
            self._failure = error
            raise
        with self._lock:
            if closed.is_set():
                self._again.append(sent)
                return None
            self._unanswered.append(sent)
            return sent

    def _is_ahead(self) -> bool:
        return self._config.policy == STREAM_POLICY_BLOCK and len(self._unanswered) >= _AHEAD

    def _taken(self) -> _Sent:
        image = next(self._images)
        frame = Frame(camera=self._name, sequence=self._next, capture_time=_now())
        frame.image.encoded = image
        self._next += 1
        return _Sent(frame, time.monotonic())

    def _matched(self, answer: ScoreStreamResponse) -> Seen:
        """Take the frames that ``answer`` is of from those that await one."""
        last = answer.dropped.last_sequence if answer.HasField("dropped") else answer.sequence
        with self._lock:
            first = self._unanswered.popleft()
            if first.frame.sequence != answer.sequence:
                raise BlemishError(
                    f"frame {answer.sequence} was answered before frame {first.frame.sequence}; "
                    "answers must come in the order of frames",
                    code=grpc.StatusCode.INTERNAL,
                )
            for _ in range(last - answer.sequence):
                self._unanswered.popleft()
            self._lock.notify_all()
        return Seen(answer, first.frame.image.encoded, time.monotonic() - first.at_s)

    def _taken_up(self) -> tuple[int, ...]:
        """Have the unanswered frames sent again where none may be lost; else name them."""
        with self._lock:
            unanswered, self._unanswered = self._unanswered, deque()
            if self._config.policy != STREAM_POLICY_BLOCK:
                return tuple(sent.frame.sequence for sent in unanswered)
            self._again.extendleft(reversed(unanswered))
            return ()


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
