# SPDX-License-Identifier: Apache-2.0
"""A stream of frames within an event loop, across lost connections and server restarts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from blemish.v1.inspection_pb2 import ScoreStreamRequest, ScoreStreamResponse
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
from blemish_client.transport.connection import AsyncConnection
from blemish_client.types.frame import FrameLike

if TYPE_CHECKING:
    _Call = grpc.aio.StreamStreamCall[ScoreStreamRequest, ScoreStreamResponse]

# Details of the status with which grpc.aio replaces that of a call that ended before a write.
FAILED_WRITE = "Internal error from Core"

Images = AsyncIterable[FrameLike] | Iterable[FrameLike]


class AsyncFrameStream:
    """The asyncio counterpart of ``FrameStream``."""

    def __init__(self, connection: AsyncConnection, ledger: Ledger, images: Images) -> None:
        self._connection = connection
        self._ledger = ledger
        self._images = aiter(images) if isinstance(images, AsyncIterable) else _in_threads(images)
        self._has_room = asyncio.Event()
        # Reading the source may outlast the connection. The next connection then waits for the same read.
        self._read: asyncio.Future[SentFrame | None] | None = None
        self._failure: Exception | None = None

    async def run(self) -> AsyncGenerator[FrameResult | LostFrames]:
        """Yield the results of all frames in order, as ``FrameStream.run`` does."""
        try:
            while True:
                try:
                    async with aclosing(self._results()) as results:
                        async for result in results:
                            self._ledger.restart_clock()
                            yield result
                    cause = Unavailable(STREAM_ENDED, code=grpc.StatusCode.UNAVAILABLE)
                except Unavailable as error:
                    cause = error
                if lost := self._ledger.disconnect(cause):
                    yield lost
                # A failed write hides the status of the call. If the server rejected it, it does so again.
                if self._ledger.is_complete and not isinstance(cause, _FailedWrite):
                    return
                await asyncio.sleep(self._ledger.pause_s(cause))
        finally:
            if self._read is not None:
                self._read.cancel()

    async def _results(self) -> AsyncGenerator[FrameResult]:
        """Yield the results of one connection."""
        guard = self._connection.guard
        guard.check()
        stub = InspectionServiceStub(self._connection.channel)
        call = stub.ScoreStream(metadata=self._connection.metadata)
        sender = asyncio.create_task(self._send(call))
        try:
            async for answer in call:
                if answer.WhichOneof("answer") == "ending":
                    return
                result = self._ledger.match(answer)
                self._has_room.set()
                yield result
                guard.check()
        except grpc.aio.AioRpcError as error:
            raise translate_stream_error(error, self._connection.target) from error
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            if guard.is_own_process:
                sender.cancel()
                call.cancel()

    async def _send(self, call: "_Call") -> None:
        """Send frames as fast as flow control allows, until the source or the call ends."""
        limit: int | None = None
        try:
            await call.write(ScoreStreamRequest(config=self._ledger.config))
            while (sent := await self._next_to_send()) is not None:
                if limit is None and sent.request.ByteSize() > ALWAYS_FITS_BYTES:
                    limit = await self._largest_message()
                await call.write(sent.request if limit is None else sent.fitting(limit))
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended, and its reader raises the cause
        except Exception as error:
            self._failure = error
            call.cancel()

    async def _largest_message(self) -> int:
        """Return the largest message that the server receives, in bytes."""
        stub = ServerServiceStub(self._connection.channel)
        try:
            return largest_message(await self._connection.call(stub.GetServerInfo, GetServerInfoRequest()))
        except BlemishError:
            return UNLIMITED_BYTES  # the stream itself fails for the same reason, and reports it

    async def _next_to_send(self) -> SentFrame | None:
        """Return the next frame and record that it awaits its answer. Return None if none is left."""
        while self._ledger.is_full:
            self._has_room.clear()
            await self._has_room.wait()
        if self._ledger.resend:
            return self._ledger.send(self._ledger.resend.popleft())
        if self._ledger.exhausted:
            return None
        if self._read is None:
            self._read = asyncio.ensure_future(self._read_source())
        await asyncio.wait({self._read})
        read, self._read = self._read, None
        if (sent := read.result()) is None:
            self._ledger.exhausted = True
            return None
        return self._ledger.send(sent)

    async def _read_source(self) -> SentFrame | None:
        if (image := await anext(self._images, None)) is None:
            return None
        return await asyncio.to_thread(self._ledger.number, image)  # it may read a file


class _FailedWrite(Unavailable):
    """A write that failed before the status of the call arrived."""


def translate_stream_error(error: grpc.aio.AioRpcError, target: str) -> BlemishError:
    """Return the exception for the end of a stream."""
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == FAILED_WRITE:
        return _FailedWrite(
            f"the connection to {target} was lost while a frame was being sent",
            code=grpc.StatusCode.UNAVAILABLE,
        )
    return translate_error(error, target)


async def _in_threads(images: Iterable[FrameLike]) -> AsyncIterator[FrameLike]:
    source = iter(images)
    while (image := await asyncio.to_thread(next, source, None)) is not None:
        yield image
