# SPDX-License-Identifier: Apache-2.0
"""The SDK for asyncio: what lines and services call all day. Training and the rest are ``Client``'s.

>>> async with AsyncClient("localhost:50051") as client:
...     async for one in client.stream(frames, "tile-patchcore", camera="left"):
...         print(one)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import grpc
import grpc.aio

from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import (
    PRIORITY_UNSPECIFIED,
    STORE_UNSPECIFIED,
    STREAM_POLICY_LATEST,
    Inspection,
    Priority,
    ScoreStreamRequest,
    ScoreStreamResponse,
    Store,
    StreamConfig,
    StreamPolicy,
)
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.search_pb2 import SearchResponse
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.errors import BlemishError, Unavailable, translated
from blemish_client.streaming.camera import ENDED, Ledger, Lost, Retries, Seen, Sent
from blemish_client.transport.connection import TIMEOUT_S, options
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.requests import (
    Query,
    SearchOptions,
    score_request,
    search_request,
    stream_config,
)
from blemish_client.transport.retry import Patience

if TYPE_CHECKING:
    from blemish.v1.inspection_pb2_grpc import InspectionServiceAsyncStub

    _Call = grpc.aio.StreamStreamCall[ScoreStreamRequest, ScoreStreamResponse]

# grpc.aio puts it in the place of the call's own status where a write finds the call ended.
_LOST_IN_A_WRITE = "Internal error from Core"

Images = AsyncIterable[bytes] | Iterable[bytes]


class AsyncClient:
    """Calls a blemish server within an event loop; names and errors are those of ``Client``."""

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout_s: float = TIMEOUT_S,
        patience: Patience | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        shown = credentials or Credentials()
        self.target = target
        self._metadata = shown.metadata
        self._timeout_s = timeout_s
        self._patience = patience or Patience()
        secured, told = shown.channel(target), options(target)
        self._channel = (
            grpc.aio.secure_channel(target, secured, told)
            if secured
            else grpc.aio.insecure_channel(target, told)
        )
        # The stubs of protoc serve both kinds of channel; their types know one.
        self._inspection = InspectionServiceStub(self._channel)
        self._search = SearchServiceStub(self._channel)
        self._server = ServerServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def server_info(self) -> GetServerInfoResponse:
        """Ask for version, limits and the state of what the server needs."""
        try:
            return await self._server.GetServerInfo(
                GetServerInfoRequest(), timeout=self._timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise translated(error, self.target) from error

    async def score(
        self,
        image: bytes | Image,
        model: str,
        *,
        anomaly_map: bool = False,
        embedding: bool = False,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        store: Store.ValueType = STORE_UNSPECIFIED,
        camera: str = "",
    ) -> Inspection:
        """Score an image, as ``Client.score`` does."""
        request = score_request(
            image,
            model,
            anomaly_map=anomaly_map,
            embedding=embedding,
            priority=priority,
            store=store,
            camera=camera,
        )
        try:
            answer = await self._inspection.Score(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translated(error, self.target) from error
        return answer.inspection

    async def search(
        self, query: Query | None, model: str, limit: int = 10, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResponse]:
        """Yield what is said of a query image, then the hits, then where the next page begins."""
        request = search_request(query, model, limit, options)
        call = self._search.Search(request, timeout=self._timeout_s, metadata=self._metadata)
        try:
            async for answer in call:
                if answer.WhichOneof("event") != "hits":
                    yield answer
                for hit in answer.hits.hits:
                    yield SearchResponse(hit=hit)
        except grpc.RpcError as error:
            raise translated(error, self.target) from error
        finally:
            call.cancel()

    def stream(
        self,
        images: Images,
        model: str,
        *,
        policy: StreamPolicy.ValueType = STREAM_POLICY_LATEST,
        camera: str = "",
        first: int = 0,
        anomaly_map: bool = False,
        embedding: bool = False,
        target_false_reject_rate: float | None = None,
        max_latency_s: float = 0.0,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        store: Store.ValueType = STORE_UNSPECIFIED,
    ) -> AsyncGenerator[Seen | Lost]:
        """Score images as a camera sends them, as ``Client.stream`` does.

        ``images`` may also be an ordinary iterable, which is then read in threads.
        """
        config = stream_config(
            model,
            policy=policy,
            anomaly_map=anomaly_map,
            embedding=embedding,
            target_false_reject_rate=target_false_reject_rate,
            max_latency_s=max_latency_s,
            priority=priority,
            store=store,
        )
        camera_ = _Camera(self, config, images, camera, first)
        return camera_.run()


class _Camera:
    """``camera.Camera`` without threads."""

    def __init__(
        self,
        client: AsyncClient,
        config: StreamConfig,
        images: Images,
        name: str,
        first: int,
    ) -> None:
        self._stub: InspectionServiceAsyncStub = client._inspection
        self._metadata = client._metadata
        self._target = client.target
        self._patience = client._patience
        self._config = config
        self._images = aiter(images) if isinstance(images, AsyncIterable) else _in_threads(images)
        self._ledger = Ledger(config, name, first)
        self._room = asyncio.Event()
        # A source may outlast its connection: the next one goes on waiting for it.
        self._taking: asyncio.Future[bytes | None] | None = None
        self._failure: Exception | None = None
        self._exhausted = False

    async def run(self) -> AsyncGenerator[Seen | Lost]:
        retries = Retries(self._patience)
        try:
            while True:
                try:
                    async with aclosing(self._once()) as answers:
                        async for seen in answers:
                            retries.answered()
                            yield seen
                            retries.answered()  # the reader's own time is not the server's silence
                    cause = Unavailable(ENDED, code=grpc.StatusCode.UNAVAILABLE)
                except Unavailable as error:
                    cause = error
                if lost := self._ledger.taken_up():
                    yield Lost(lost, cause.message)
                # A failed write hides why the call ended: if the server refused it, it says so again.
                if self._exhausted and not self._ledger.again and not isinstance(cause, _LostInAWrite):
                    return
                await asyncio.sleep(retries.pause_s(cause))
        finally:
            if self._taking is not None:
                self._taking.cancel()

    async def _once(self) -> AsyncGenerator[Seen]:
        """Yield the answers of one connection."""
        call = self._stub.ScoreStream(metadata=self._metadata)
        sender = asyncio.create_task(self._send(call))
        try:
            async for answer in call:
                if answer.WhichOneof("answer") == "ending":
                    return
                seen = self._ledger.matched(answer)
                self._room.set()
                yield seen
        except grpc.aio.AioRpcError as error:
            raise _meant(error, self._target) from error
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            sender.cancel()
            call.cancel()

    async def _send(self, call: "_Call") -> None:
        """Send as fast as flow control lets it, until the source or the call ends."""
        try:
            await call.write(ScoreStreamRequest(config=self._config))
            while (sent := await self._next_to_send()) is not None:
                await call.write(ScoreStreamRequest(frame=sent.frame))
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended; its reader says why
        except Exception as error:
            self._failure = error
            call.cancel()

    async def _next_to_send(self) -> Sent | None:
        """Return a frame that awaits an answer from now on, None if there is none left to send."""
        while self._ledger.is_ahead:
            self._room.clear()
            await self._room.wait()
        if self._ledger.again:
            return self._ledger.send(self._ledger.again.popleft())
        if self._exhausted:
            return None
        if self._taking is None:
            self._taking = asyncio.ensure_future(anext(self._images, None))
        await asyncio.wait({self._taking})
        taken, self._taking = self._taking, None
        if (image := taken.result()) is None:
            self._exhausted = True
            return None
        return self._ledger.send(self._ledger.numbered(image))


class _LostInAWrite(Unavailable):
    """A write failed before the call's status was there, which grpc.aio then replaces by its own."""


def _meant(error: grpc.aio.AioRpcError, target: str) -> BlemishError:
    """What the end of a stream means."""
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == _LOST_IN_A_WRITE:
        return _LostInAWrite(
            f"the connection to {target} was cut while a frame was being sent",
            code=grpc.StatusCode.UNAVAILABLE,
        )
    return translated(error, target)


async def _in_threads(images: Iterable[bytes]) -> AsyncIterator[bytes]:
    source = iter(images)
    while (image := await asyncio.to_thread(next, source, None)) is not None:
        yield image
