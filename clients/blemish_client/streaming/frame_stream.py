# SPDX-License-Identifier: Apache-2.0
"""A stream of frames over threads, across lost connections and server restarts."""

import threading
import time
from collections.abc import Iterable, Iterator

import grpc

from blemish.v1.inspection_pb2 import ScoreStreamRequest
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.errors import BlemishError, Unavailable, translate_error
from blemish_client.streaming.ledger import (
    ALWAYS_FITS_BYTES,
    STREAM_ENDED,
    UNLIMITED_BYTES,
    FrameResult,
    Ledger,
    LostFrames,
    SentFrame,
    largest_message,
)
from blemish_client.transport.connection import Connection
from blemish_client.types.frame import FrameLike


class FrameStream:
    """A stream of frames with consecutive numbers, across any number of connections."""

    def __init__(self, connection: Connection, ledger: Ledger, images: Iterable[FrameLike]) -> None:
        self._connection = connection
        self._ledger = ledger
        self._images = iter(images)
        self._lock = threading.Condition()
        self._source_lock = threading.Lock()
        self._failure: Exception | None = None

    def run(self) -> Iterator[FrameResult | LostFrames]:
        """Yield the results of all frames in order, until the source ends.

        After a lost connection the stream reconnects, for as long as the retry policy allows.

        Raises:
            Unavailable: if the server stays unreachable for longer.
            BlemishError: if the server rejects the stream.
            Exception: any exception that the source raises.
        """
        while True:
            try:
                for result in self._results():
                    self._ledger.restart_clock()
                    yield result
                cause = Unavailable(STREAM_ENDED, code=grpc.StatusCode.UNAVAILABLE)
            except Unavailable as error:
                cause = error
            with self._lock:
                lost = self._ledger.disconnect(cause)
            if lost:
                yield lost
            if self._ledger.is_complete:
                return
            time.sleep(self._ledger.pause_s(cause))

    def _results(self) -> Iterator[FrameResult]:
        """Yield the results of one connection."""
        stub = InspectionServiceStub(self._connection.channel)
        closed = threading.Event()
        guard = self._connection.guard
        with guard.call():
            answers = stub.ScoreStream(self._requests(closed), metadata=self._connection.metadata)
            try:
                for answer in answers:
                    if answer.WhichOneof("answer") == "ending":
                        return
                    with self._lock:
                        result = self._ledger.match(answer)
                        self._lock.notify_all()
                    yield result
                    guard.check()
            except grpc.RpcError as error:
                if self._failure is not None:
                    raise self._failure from error
                raise translate_error(error, self._connection.target) from error
            finally:
                if guard.is_own_process:
                    with self._lock:
                        closed.set()
                        self._lock.notify_all()
                    answers.cancel()

    def _requests(self, closed: threading.Event) -> Iterator[ScoreStreamRequest]:
        """Yield the messages of one connection. gRPC iterates in a thread of its own."""
        yield ScoreStreamRequest(config=self._ledger.config)
        limit: int | None = None
        while (sent := self._next_to_send(closed)) is not None:
            if limit is None and sent.request.ByteSize() > ALWAYS_FITS_BYTES:
                limit = self._largest_message()
            yield sent.request if limit is None else sent.fitting(limit)

    def _largest_message(self) -> int:
        """Return the largest message that the server receives, in bytes."""
        stub = ServerServiceStub(self._connection.channel)
        try:
            return largest_message(self._connection.call(stub.GetServerInfo, GetServerInfoRequest()))
        except BlemishError:
            return UNLIMITED_BYTES  # the stream itself fails for the same reason, and reports it

    def _next_to_send(self, closed: threading.Event) -> SentFrame | None:
        """Return the next frame and record that it awaits its answer. Return None if none is left."""
        while True:
            with self._lock:
                while self._ledger.is_full and not closed.is_set():
                    self._lock.wait()
                if closed.is_set():
                    return None
                if self._ledger.resend:
                    return self._ledger.send(self._ledger.resend.popleft())
            # Reading may outlast the connection. The next connection then sends that frame first.
            with self._source_lock:
                if self._ledger.resend:
                    continue
                return self._read_source(closed)

    def _read_source(self, closed: threading.Event) -> SentFrame | None:
        if closed.is_set():
            return None
        try:
            sent = self._ledger.number(next(self._images))
        except StopIteration:
            self._ledger.exhausted = True
            return None
        except Exception as error:
            # This is gRPC's thread. The caller's thread raises the failure.
            self._failure = error
            raise
        with self._lock:
            if closed.is_set():
                self._ledger.resend.append(sent)
                return None
            return self._ledger.send(sent)
