# SPDX-License-Identifier: Apache-2.0
"""SearchService: find past images like a query."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from blemish.v1 import search_pb2 as pb
from blemish.v1.inspection_pb2 import Outputs
from blemish.v1.search_pb2_grpc import SearchServiceServicer
from blemish_core.datasets import DatasetStore
from blemish_core.errors import BlemishError, InvalidRequest
from blemish_core.images import ImageLimits, thumbnail
from blemish_core.index import Filter, Item, SearchIndex, Similar
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef, dataset_id, item_id
from blemish_server import convert
from blemish_server.inspector import Inspector

_LIMIT, _MOST = 10, 1000


class SearchServicer(SearchServiceServicer):
    def __init__(
        self,
        inspector: Inspector,
        models: ModelStore,
        index: SearchIndex,
        datasets: DatasetStore,
        limits: ImageLimits,
    ) -> None:
        self._inspector = inspector
        self._models = models
        self._index = index
        self._datasets = datasets
        self._limits = limits

    async def Search(  # noqa: N802
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.SearchResponse]:
        ref = ModelRef.parse(request.model)
        limit = request.limit or _LIMIT
        if not 1 <= limit <= _MOST:
            raise InvalidRequest(f"limit is {limit}, but must be 1 to {_MOST}", field="limit")
        where = Filter(
            datasets=[dataset_id(name, "filter.datasets") for name in request.filter.datasets],
            categories=list(request.filter.categories),
            classes=list(request.filter.classes),
        )
        # The index of the version that is current now, also if another is promoted meanwhile.
        version = await asyncio.to_thread(self._models.resolve, ref)
        query: NDArray[np.float32] | UUID
        match request.WhichOneof("query"):
            case "image":
                picture = convert.picture(request.image, "image")
                await asyncio.to_thread(self._index.count, version)  # no index: say so before working
                done = await self._inspector.inspect(picture, version)
                yield pb.SearchResponse(query=convert.inspection(done, Outputs()))
                query = done.outcome.embedding
            case "item":
                query = item_id(request.item)
            case _:
                raise InvalidRequest("there is no query: set image or item", field="query")
        found = self._index.search(version, query, limit, where)
        while (similar := await asyncio.to_thread(_next, found)) is not None:
            small = b""
            if request.include_thumbnails:
                small = await asyncio.to_thread(self._thumbnail, similar.item)
            yield pb.SearchResponse(hit=convert.hit(similar, small))

    def _thumbnail(self, item: Item) -> bytes:
        try:
            return thumbnail(self._datasets.read_path(item.dataset, item.path), limits=self._limits)
        except BlemishError:
            return b""  # the image is gone or was replaced; the hit is still one


def _next(found: Iterator[Similar]) -> Similar | None:
    return next(found, None)
