# SPDX-License-Identifier: Apache-2.0
"""The asyncio client. It has the calls that a production line makes; ``Client`` has all calls.

>>> async with AsyncClient("localhost:50051") as client:
...     async for result in client.stream(frames, "tile-patchcore", camera="left"):
...         print(result)
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

from blemish.v1.inspection_pb2 import Inspection, WatchInspectionsResponse
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.search_pb2 import SearchResponse
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.images import ImageLike
from blemish_client.shared import SharedClient
from blemish_client.streaming.async_frame_stream import AsyncFrameStream, Images
from blemish_client.streaming.ledger import FrameResult, Ledger, LostFrames
from blemish_client.transport import inspection_watch
from blemish_client.transport.connection import AsyncConnection
from blemish_client.transport.requests import (
    FrameStreamOptions,
    InspectionWatchOptions,
    ScoreOptions,
    SearchOptions,
    SearchQuery,
    inspection_watch_request,
    score_request,
    search_request,
    stream_config,
)


class AsyncClient(SharedClient[AsyncConnection]):
    """A client for one event loop, with the names and errors of ``Client``."""

    _connection_class = AsyncConnection

    def _create_stubs(self) -> None:
        channel = self._connection.channel
        self._inspection = InspectionServiceStub(channel)
        self._search = SearchServiceStub(channel)
        self._server = ServerServiceStub(channel)

    async def close(self) -> None:
        """Close the connection and end all running calls."""
        await self._connection.close()

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
        """Return the server's version, limits and the state of its dependencies."""
        return await self._connection.call(self._server.GetServerInfo, GetServerInfoRequest())

    async def score(self, image: ImageLike, model: str, **options: Unpack[ScoreOptions]) -> Inspection:
        """Score one image, as ``Client.score`` does."""
        request = score_request(image, model, options)
        return (await self._connection.call(self._inspection.Score, request)).inspection

    def watch_inspections(
        self, **options: Unpack[InspectionWatchOptions]
    ) -> AsyncGenerator[WatchInspectionsResponse]:
        """Yield the verdicts on all images of the server, as ``Client.watch_inspections`` does."""
        request = inspection_watch_request(options)
        return inspection_watch.watch_async(self._connection, request, options.get("on_unreachable"))

    async def search(
        self, query: "SearchQuery | None", model: str, limit: int = 10, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResponse]:
        """Yield the inspection of a query image, then the hits, then the token of the next page."""
        request = search_request(query, model, limit, options)
        async with aclosing(self._connection.stream(self._search.Search, request)) as answers:
            async for answer in answers:
                if answer.WhichOneof("event") != "hits":
                    yield answer
                for hit in answer.hits.hits:
                    yield SearchResponse(hit=hit)

    def stream(
        self, images: Images, model: str, **options: Unpack[FrameStreamOptions]
    ) -> AsyncGenerator[FrameResult | LostFrames]:
        """Score the frames of a camera, as ``Client.stream`` does.

        ``images`` may be an ordinary iterable, which is then read in threads.
        """
        ledger = Ledger(
            stream_config(model, options),
            options.get("camera", ""),
            options.get("first", 0),
            self._connection.retry_policy,
            options.get("on_unreachable"),
        )
        return AsyncFrameStream(self._connection, ledger, images).run()
