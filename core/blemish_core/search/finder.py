# SPDX-License-Identifier: Apache-2.0
"""Searches, asked from an event loop in Qdrant's own messages.

By way of Qdrant's client, in a thread, they took 0.4 ms longer: its interceptors, and a model of each
message. That is of no weight beside what else is asked of an index, but a third of what blemish added to a
search; see ``tests/benchmarks/bench_search.py``.
"""

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import grpc.aio
from qdrant_client import grpc as qg
from qdrant_client.conversions.conversion import RestToGrpc

from blemish_core.platform.names import ModelRef
from blemish_core.search.failures import no_index, translated
from blemish_core.search.item import Item
from blemish_core.search.query import Query, Similar
from blemish_core.search.search_index import CHANNEL, TIMEOUT_S, SearchIndex, alias_of

# How many times the hits are looked at again in full precision, and at least for deep pages. Of 100,000
# real-shaped vectors twice the hits found 98 % of the true ten, eight times 99.5 %, in the same time
# (bench_search.py).
_OVERSAMPLING, _LEAST_OVERSAMPLING = 8.0, 2.0
_MOST_RESCORED = 10_000
# Points read on the event loop, in less than a millisecond; groups may have thousands.
_AT_ONCE = 64


class Points(Protocol):
    """What is asked of Qdrant's Points service."""

    def Query(  # noqa: N802 (Qdrant's names)
        self, request: qg.QueryPoints, *, timeout: float
    ) -> Awaitable[qg.QueryResponse]: ...

    def QueryGroups(  # noqa: N802
        self, request: qg.QueryPointGroups, *, timeout: float
    ) -> Awaitable[qg.QueryGroupsResponse]: ...


class Finder:
    """Searches what is published of ``index``; lives in one event loop."""

    def __init__(self, index: SearchIndex, points: Points, channel: grpc.aio.Channel | None = None) -> None:
        self._index = index
        self._points = points
        self._channel = channel

    @classmethod
    def connect(cls, index: SearchIndex, url: str, grpc_port: int, api_key: str = "") -> "Finder":
        """Prepare a connection as ``SearchIndex.connect`` does; nothing is sent before the first search."""
        target, secure = address(url, grpc_port)
        options, shown = [*CHANNEL.items()], [_ShowKey(api_key)] if api_key else None
        if secure:
            channel = grpc.aio.secure_channel(
                target, grpc.ssl_channel_credentials(), options, interceptors=shown
            )
        else:
            channel = grpc.aio.insecure_channel(target, options, interceptors=shown)
        return cls(index, qg.PointsStub(channel), channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def search(
        self, version: ModelRef, query: Query, limit: int, *, offset: int = 0, timeout_s: float = TIMEOUT_S
    ) -> list[Similar]:
        """Return the ``limit`` items most similar, best first, after leaving out the ``offset`` best.

        Grouped, ``limit`` counts groups, and there is no offset.

        Raises:
            NotFound: if the version has no index, there is no such item, or nothing in the index has a
                value that a list of the filter names.
            InvalidRequest: if the query asks for nothing, or for what does not go together.
            Unavailable: if Qdrant does not answer.
        """
        if query.where.wanted():
            await asyncio.to_thread(self._index.check_known, version, query.where)
        where, within_s = query.where.qdrant(), min(timeout_s, TIMEOUT_S)
        terms: dict[str, Any] = {
            "collection_name": alias_of(version),
            "query": query.qdrant(limit),
            "filter": RestToGrpc.convert_filter(where) if where is not None else None,
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
        with translated(), no_index(version):
            if query.group_by is None:
                found = await self._points.Query(qg.QueryPoints(offset=offset, **terms), timeout=within_s)
                return await _read([(point, "") for point in found.result])
            grouped = await self._points.QueryGroups(
                qg.QueryPointGroups(group_by=query.group_by, group_size=query.group_size, **terms),
                timeout=within_s,
            )
        groups = [(group.hits, str(_told(group.id))) for group in grouped.result.groups]
        return await _read([(point, name) for hits, name in groups for point in hits])


class _ShowKey(grpc.aio.UnaryUnaryClientInterceptor):
    """Has each call carry Qdrant's key."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = client_call_details
        metadata = grpc.aio.Metadata(*(call.metadata or ()), ("api-key", self._api_key))
        shown = grpc.aio.ClientCallDetails(
            call.method, call.timeout, metadata, call.credentials, call.wait_for_ready
        )
        return await continuation(shown, request)


def address(url: str, grpc_port: int) -> tuple[str, bool]:
    """Where gRPC is spoken, and whether by TLS, as Qdrant's client reads ``url``; it may lack a scheme."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    host = parts.hostname or "localhost"
    return f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}", parts.scheme == "https"


def oversampling(depth: int) -> float:
    """How many times as many are looked at again, for the ``depth`` best in a quantized index."""
    return max(_LEAST_OVERSAMPLING, min(_OVERSAMPLING, _MOST_RESCORED / depth))


async def _read(found: Sequence[tuple[qg.ScoredPoint, str]]) -> list[Similar]:
    """Read points and their groups; many of them beside the event loop."""

    def read() -> list[Similar]:
        return [_similar(point, group) for point, group in found]

    return read() if len(found) <= _AT_ONCE else await asyncio.to_thread(read)


def _similar(point: qg.ScoredPoint, group: str) -> Similar:
    payload: Mapping[str, object] = {name: _told(value) for name, value in point.payload.items()}
    return Similar(Item.read(point.id.uuid, payload), point.score, group)


def _told(value: Any) -> object:
    """What a value, or the id of a group, is; both hold one of several, and are asked often."""
    ((_, told),) = value.ListFields()  # half the time of WhichOneof and what that names
    return told
