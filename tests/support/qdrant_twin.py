# SPDX-License-Identifier: Apache-2.0
"""Qdrant's in-memory client as a stand-in for a server, and an index of 150 items in it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import grpc as qg
from qdrant_client import models as qm
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item, item_id
from blemish_core.search.search_index import SearchIndex

VERSION = ModelRef("tile", 1)
CLASSES = ("good", "crack", "oil")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def in_memory_qdrant() -> QdrantClient:
    """Return an in-memory client that accepts gRPC filters, as the client of a server does."""
    return _InMemoryQdrant(":memory:")


class _InMemoryQdrant(QdrantClient):
    def count(self, *args: Any, **options: Any) -> Any:
        return super().count(*args, **_as_rest(options, "count_filter"))

    def scroll(self, *args: Any, **options: Any) -> Any:
        return super().scroll(*args, **_as_rest(options, "scroll_filter"))

    def facet(self, *args: Any, **options: Any) -> Any:
        return super().facet(*args, **_as_rest(options, "facet_filter"))

    def delete(self, *args: Any, **options: Any) -> Any:
        name, selector = args
        if isinstance(selector, qg.Filter):
            selector = GrpcToRest.convert_filter(selector)
        return super().delete(name, selector, **options)


def _as_rest(options: dict[str, Any], name: str) -> dict[str, Any]:
    where = options.get(name)
    return {**options, name: GrpcToRest.convert_filter(where)} if isinstance(where, qg.Filter) else options


def _record_to_proto(record: qm.Record) -> qg.RetrievedPoint:
    # The conversion requires a payload, although a request may select none.
    return RestToGrpc.convert_record(record.model_copy(update={"payload": record.payload or {}}))


class TwinPoints:
    """Qdrant's Points service, answered by its in-memory client."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self.timeouts: list[float] = []
        self.retrieved: list[int] = []
        """Number of points of each call to Get."""

    async def Facet(self, request: qg.FacetCounts, *, timeout: float) -> qg.FacetResponse:  # noqa: N802
        found = self._client.facet(
            request.collection_name,
            request.key,
            facet_filter=request.filter,
            limit=request.limit,
            exact=request.exact,
        )
        return qg.FacetResponse(
            hits=[
                qg.FacetHit(value=qg.FacetValue(string_value=str(hit.value)), count=hit.count)
                for hit in found.hits
            ]
        )

    async def Scroll(self, request: qg.ScrollPoints, *, timeout: float) -> qg.ScrollResponse:  # noqa: N802
        found, _ = self._client.scroll(
            request.collection_name,
            scroll_filter=request.filter,
            limit=request.limit,
            with_payload=request.with_payload.enable,
        )
        return qg.ScrollResponse(result=map(_record_to_proto, found))

    async def Get(self, request: qg.GetPoints, *, timeout: float) -> qg.GetResponse:  # noqa: N802
        self.retrieved.append(len(request.ids))
        found = self._client.retrieve(
            request.collection_name,
            [id.uuid for id in request.ids],
            with_payload=request.with_payload.enable,
            with_vectors=request.with_vectors.enable,
        )
        return qg.GetResponse(result=map(_record_to_proto, found))

    async def Query(  # noqa: N802 (Qdrant's names, here and below)
        self, request: qg.QueryPoints, *, timeout: float
    ) -> qg.QueryResponse:
        found = self._client.query_points(**self._arguments(request, timeout), offset=request.offset)
        return qg.QueryResponse(result=map(RestToGrpc.convert_scored_point, found.points))

    async def QueryGroups(  # noqa: N802
        self, request: qg.QueryPointGroups, *, timeout: float
    ) -> qg.QueryGroupsResponse:
        found = self._client.query_points_groups(
            **self._arguments(request, timeout), group_by=request.group_by, group_size=request.group_size
        )
        return qg.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(found))

    def _arguments(self, request: qg.QueryPoints | qg.QueryPointGroups, timeout: float) -> dict[str, Any]:
        self.timeouts.append(timeout)
        assert request.with_payload.enable
        where = request.filter if request.HasField("filter") else None
        return {
            "collection_name": request.collection_name,
            "query": GrpcToRest.convert_query(request.query),
            "query_filter": GrpcToRest.convert_filter(where) if where else None,
            "search_params": GrpcToRest.convert_search_params(request.params),
            "limit": request.limit,
        }


def vectors(count: int) -> NDArray[np.float32]:
    """Return unit vectors of shape (count, 8), the same in every call."""
    random = np.random.default_rng(4).normal(size=(count, 8)).astype(np.float32)
    return np.asarray(random / np.linalg.norm(random, axis=1, keepdims=True))


def items(count: int) -> list[Item]:
    return [
        Item(
            id=item_id(VERSION, f"{number}"),
            dataset="tile",
            category="tile",
            path=f"test/{CLASSES[number % 3]}/{number:03}.png",
            class_name=CLASSES[number % 3],
            sha256=f"{number}",
            score=float(number),
            p_value=0.5,
            anomalous=number % 3 > 0,
            time=NOON + timedelta(minutes=number),
            model_version=str(VERSION),
        )
        for number in range(count)
    ]


def filled_index(client: QdrantClient) -> SearchIndex:
    """Return a published index of 150 items."""
    index = SearchIndex(client)
    index.prepare(VERSION, 8)
    index.put(VERSION, items(150), vectors(150))
    index.publish(VERSION)
    return index
