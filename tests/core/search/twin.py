# SPDX-License-Identifier: Apache-2.0
"""Qdrant's in-memory twin for the index and for searches, and what lies in it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import grpc as qg
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item, item_id
from blemish_core.search.search_index import SearchIndex

VERSION = ModelRef("tile", 1)
CLASSES = ("good", "crack", "oil")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class TwinPoints:
    """Answers Qdrant's messages as its in-memory twin would, which takes the client's models."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client
        self.timeouts: list[float] = []

    async def Query(  # noqa: N802 (Qdrant's names, here and below)
        self, request: qg.QueryPoints, *, timeout: float
    ) -> qg.QueryResponse:
        found = self._client.query_points(**self._terms(request, timeout), offset=request.offset)
        return qg.QueryResponse(result=map(RestToGrpc.convert_scored_point, found.points))

    async def QueryGroups(  # noqa: N802
        self, request: qg.QueryPointGroups, *, timeout: float
    ) -> qg.QueryGroupsResponse:
        found = self._client.query_points_groups(
            **self._terms(request, timeout), group_by=request.group_by, group_size=request.group_size
        )
        return qg.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(found))

    def _terms(self, request: qg.QueryPoints | qg.QueryPointGroups, timeout: float) -> dict[str, Any]:
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


def filled(client: QdrantClient) -> SearchIndex:
    """The index of 150 items, published."""
    index = SearchIndex(client)
    index.prepare(VERSION, 8)
    index.put(VERSION, items(150), vectors(150))
    index.publish(VERSION)
    return index
