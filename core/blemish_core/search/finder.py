# SPDX-License-Identifier: Apache-2.0
"""Similarity searches from an event loop, in Qdrant's own messages.

Qdrant's client is synchronous here and builds a model of each message, which took a third of the time that
blemish adds to a search (``tests/benchmarks/bench_search.py``).
"""

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from qdrant_client import grpc as qg

from blemish_core.platform.channels import Channel
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item
from blemish_core.search.qdrant_channel import open_channel
from blemish_core.search.qdrant_errors import missing_as_not_found, translated_errors
from blemish_core.search.qdrant_filter import compile_filter
from blemish_core.search.query import Query, Similar
from blemish_core.search.search_index import TIMEOUT_S, published_alias

# Candidates of the quantized index per hit, compared again in full precision, and their minimum for deep
# pages. See docs/benchmarks.md for the recall of other factors.
_OVERSAMPLING, _MIN_OVERSAMPLING = 8.0, 2.0
_MAX_RESCORED = 10_000
# Points that are parsed on the event loop, which takes less than a millisecond. Groups may have thousands.
_MAX_PARSED_INLINE = 64
# Candidates per hit among which MMR chooses, and their minimum.
_MMR_FACTOR, _MIN_MMR_CANDIDATES = 10, 100


class Points(Protocol):
    """The calls of Qdrant's Points service that searches use."""

    def Query(  # noqa: N802 (Qdrant's names)
        self, request: qg.QueryPoints, *, timeout: float
    ) -> Awaitable[qg.QueryResponse]: ...

    def QueryGroups(  # noqa: N802
        self, request: qg.QueryPointGroups, *, timeout: float
    ) -> Awaitable[qg.QueryGroupsResponse]: ...


class Finder:
    """Similarity searches of published indexes. It belongs to one event loop."""

    def __init__(self, points: Points, channel: Channel | None = None) -> None:
        self._points = points
        self._channel = channel

    @classmethod
    def connect(cls, url: str, grpc_port: int, api_key: str = "", proxy: str = "") -> "Finder":
        """Create a finder as ``SearchIndex.connect`` does; the first search opens the connection."""
        channel = open_channel(url, grpc_port, api_key, proxy)
        return cls(qg.PointsStub(channel), channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def search(
        self, version: ModelRef, query: Query, limit: int, *, offset: int = 0, timeout_s: float = TIMEOUT_S
    ) -> list[Similar]:
        """Return the ``limit`` most similar items after the first ``offset``, best first.

        In a grouped search ``limit`` counts groups, and ``offset`` is ignored.

        Raises:
            NotFound: if the version has no index, or an item of the query is not in it.
            InvalidRequest: if the query is incomplete or contradictory.
            Unavailable: if Qdrant does not respond.
        """
        query.validate()
        within_s = min(timeout_s, TIMEOUT_S)
        arguments: dict[str, Any] = {
            "collection_name": published_alias(version),
            "query": _query_message(query, limit),
            "filter": compile_filter(query.where),
            "params": qg.SearchParams(
                exact=query.exact,
                quantization=qg.QuantizationSearchParams(
                    rescore=True, oversampling=oversampling(offset + limit)
                ),
            ),
            "limit": limit,
            "with_payload": qg.WithPayloadSelector(enable=True),
            "timeout": max(1, math.ceil(within_s)),
        }
        with translated_errors(), missing_as_not_found(version):
            if query.group_by is None:
                request = qg.QueryPoints(offset=offset, **arguments)
                found = await self._points.Query(request, timeout=within_s)
                return await _parse([(point, "") for point in found.result])
            grouped = await self._points.QueryGroups(
                qg.QueryPointGroups(group_by=query.group_by, group_size=query.group_size, **arguments),
                timeout=within_s,
            )
        groups = [(group.hits, str(_value(group.id))) for group in grouped.result.groups]
        return await _parse([(point, name) for hits, name in groups for point in hits])


def oversampling(depth: int) -> float:
    """Return the candidates per hit that are compared in full precision for the best ``depth`` hits."""
    return max(_MIN_OVERSAMPLING, min(_OVERSAMPLING, _MAX_RESCORED / depth))


def _query_message(query: Query, limit: int) -> qg.Query:
    nearest = _vector_input(query)
    if query.like or query.unlike:
        return qg.Query(
            recommend=qg.RecommendInput(
                positive=[*([nearest] if nearest is not None else []), *map(_point, query.like)],
                negative=map(_point, query.unlike),
                strategy=qg.RecommendStrategy.AverageVector,
            )
        )
    if query.diversity is None:
        return qg.Query(nearest=nearest)
    candidates = max(_MIN_MMR_CANDIDATES, _MMR_FACTOR * limit)
    mmr = qg.Mmr(diversity=query.diversity, candidates_limit=candidates)
    return qg.Query(nearest_with_mmr=qg.NearestInputWithMmr(nearest=nearest, mmr=mmr))


def _vector_input(query: Query) -> qg.VectorInput | None:
    if query.item is not None:
        return _point(query.item)
    if query.vector is None:
        return None
    return qg.VectorInput(dense=qg.DenseVector(data=query.vector.tolist()))


def _point(id: UUID) -> qg.VectorInput:
    return qg.VectorInput(id=qg.PointId(uuid=str(id)))


async def _parse(found: Sequence[tuple[qg.ScoredPoint, str]]) -> list[Similar]:
    """Return hits from points and their groups; many are parsed in a thread."""

    def parse() -> list[Similar]:
        return [_similar(point, group) for point, group in found]

    return parse() if len(found) <= _MAX_PARSED_INLINE else await asyncio.to_thread(parse)


def _similar(point: qg.ScoredPoint, group: str) -> Similar:
    payload: Mapping[str, object] = {name: _value(value) for name, value in point.payload.items()}
    return Similar(Item.from_payload(point.id.uuid, payload), point.score, group)


def _value(message: Any) -> object:
    """Return the one field that is set in a value or a group's id."""
    ((_, value),) = message.ListFields()  # twice as fast as WhichOneof and getattr
    return value
