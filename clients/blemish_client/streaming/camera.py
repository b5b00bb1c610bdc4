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
from blemish_client.errors import BlemishError, Unavailable, translated
from blemish_client.transport.connection import Connection
from blemish_client.transport.retry import Patience

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
class Sent:
    """A frame, and when it left its source."""

    frame: Frame
    at_s: float


class Ledger:
    """What was sent and awaits an answer, whatever happens to the connection; for one thread at a time."""

    def __init__(self, config: StreamConfig, name: str, first: int) -> None:
        self._config = config
        self._name = name
        self._next = first
        # Oldest first; answers come in this order.
        self._unanswered: deque[Sent] = deque()
        self.again: deque[Sent] = deque()
        """What was taken from the source and is to be sent first by the next connection."""

    @property
    def is_ahead(self) -> bool:
        """Whether sending more would only have it wait in the connection."""
        return self._config.policy == STREAM_POLICY_BLOCK and len(self._unanswered) >= _AHEAD

    def numbered(self, image: bytes) -> Sent:
        """Make the source's next frame."""
        frame = Frame(camera=self._name, sequence=self._next, capture_time=_now())
        frame.image.encoded = image
        self._next += 1
        return Sent(frame, time.monotonic())

    def send(self, sent: Sent) -> Sent:
        """Note that ``sent`` awaits an answer from now on."""
        self._unanswered.append(sent)
        return sent

    def matched(self, answer: ScoreStreamResponse) -> Seen:
        """Take the frames that ``answer`` is of from those that await one."""
        last = answer.dropped.last_sequence if answer.HasField("dropped") else answer.sequence
        first = self._unanswered.popleft()
        if first.frame.sequence != answer.sequence:
            raise BlemishError(
                f"frame {answer.sequence} was answered before frame {first.frame.sequence}; "
                "answers must come in the order of frames",
                code=grpc.StatusCode.INTERNAL,
            )
        for _ in range(last - answer.sequence):
            self._unanswered.popleft()
        return Seen(answer, first.frame.image.encoded, time.monotonic() - first.at_s)

    def taken_up(self) -> tuple[int, ...]:
        """Have the unanswered frames sent again where none may be lost; else name them."""
        unanswered, self._unanswered = self._unanswered, deque()
        if self._config.policy != STREAM_POLICY_BLOCK:
            return tuple(sent.frame.sequence for sent in unanswered)
        self.again.extendleft(reversed(unanswered))
        return ()


class Retries:
    """For how long, and how often, a stream that was cut is opened again."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pauses_s = patience.pauses_s()
        self._give_up = time.monotonic() + patience.call_s

    def answered(self) -> None:
        """Begin anew: somebody is there."""
        self._give_up = time.monotonic() + self._patience.watch_s
        self._pauses_s = self._patience.pauses_s()

    def pause_s(self, cause: Unavailable) -> float:
        """Return how long to wait after ``cause``, or raise it if that was long enough."""
        if time.monotonic() > self._give_up:
            raise cause
        return max(next(self._pauses_s), cause.retry_after_s or 0.0)


ENDED = "the server ended the stream"


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
        self._ledger = Ledger(config, name, first)
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
        retries = Retries(self._connection.patience)
        while True:
            try:
                for seen in self._once():
                    retries.answered()
                    yield seen
                    retries.answered()  # the reader's own time is not the server's silence
                cause = Unavailable(ENDED, code=grpc.StatusCode.UNAVAILABLE)
            except Unavailable as error:
                cause = error
            with self._lock:
                lost = self._ledger.taken_up()
            if lost:
                yield Lost(lost, cause.message)
            if self._exhausted and not self._ledger.again:
                return
            time.sleep(retries.pause_s(cause))

    def _once(self) -> Iterator[Seen]:
        """Yield the answers of one connection."""
        stub = InspectionServiceStub(self._connection.channel)
        closed = threading.Event()
        answers = stub.ScoreStream(self._requests(closed), metadata=self._connection.metadata)
        try:
            for answer in answers:
                if answer.WhichOneof("answer") == "ending":
                    return
                with self._lock:
                    seen = self._ledger.matched(answer)
                    self._lock.notify_all()
                yield seen
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

    def _next_to_send(self, closed: threading.Event) -> Sent | None:
        """Return a frame that awaits an answer from now on, None if there is none left to send."""
        while True:
            with self._lock:
                while self._ledger.is_ahead and not closed.is_set():
                    self._lock.wait()
                if closed.is_set():
                    return None
                if self._ledger.again:
                    return self._ledger.send(self._ledger.again.popleft())
            # A source may outlast its connection: what it gives then comes first in the next one.
            with self._source:
                if self._ledger.again:
                    continue
                return self._of_source(closed)

    def _of_source(self, closed: threading.Event) -> Sent | None:
        if closed.is_set():
            return None
        try:
            sent = self._ledger.numbered(next(self._images))
        except StopIteration:
            self._exhausted = True
            return None
        except Exception as error:
            # Of grpc's thread; told in the caller's.
            self._failure = error
            raise
        with self._lock:
            if closed.is_set():
                self._ledger.again.append(sent)
                return None
            return self._ledger.send(sent)


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
