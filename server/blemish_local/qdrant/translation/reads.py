# SPDX-License-Identifier: Apache-2.0
"""Reads: from Qdrant's requests to the engine's, and points back to Qdrant's answers."""

from collections.abc import Sequence
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest
from blemish_local.qdrant.translation import filters, ids, payloads, vectors

_LIMIT = 10
"""How many are returned where the request does not say."""
_DIRECTIONS = {pb.Direction.Asc: qe.Direction.Asc, pb.Direction.Desc: qe.Direction.Desc}


def scroll(request: pb.ScrollPoints) -> qe.ScrollRequest:
    return qe.ScrollRequest(
        offset=ids.from_proto(request.offset) if request.HasField("offset") else None,
        limit=limit(request),
        filter=where(request),
        with_payload=payload_wanted(request, otherwise=True),
        with_vector=vectors_wanted(request),
        order_by=order(request.order_by) if request.HasField("order_by") else None,
    )


def count(request: pb.CountPoints) -> qe.CountRequest:
    exact = request.exact if request.HasField("exact") else True
    return qe.CountRequest(exact, where(request))


def facet(request: pb.FacetCounts) -> qe.FacetRequest:
    return qe.FacetRequest(request.key, limit(request), request.exact, where(request))


def search(
    request: pb.QueryPoints, query: qe.Query | qe.Mmr | qe.OrderBy | None, where: qe.Filter | None
) -> qe.QueryRequest:
    """Read what a query asks for beside the query itself and its filter."""
    return qe.QueryRequest(
        limit=limit(request),
        offset=request.offset,
        query=query,
        filter=where,
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_params(request.params),
        with_payload=payload_wanted(request, otherwise=False),
        with_vector=vectors_wanted(request),
    )


def limit(request: pb.ScrollPoints | pb.FacetCounts | pb.QueryPoints) -> int:
    """Return how many are asked for.

    Raises:
        BadRequest: if none are.
    """
    if not request.HasField("limit"):
        return _LIMIT
    if request.limit == 0:
        raise BadRequest("the limit is 0: ask for at least 1")
    return request.limit


def where(
    request: pb.ScrollPoints | pb.CountPoints | pb.FacetCounts | pb.QueryPoints,
) -> qe.Filter | None:
    return filters.from_proto(request.filter) if request.HasField("filter") else None


def order(given: pb.OrderBy) -> qe.OrderBy:
    if given.direction not in _DIRECTIONS:
        raise BadRequest(f"{given.direction} is no direction to order by")
    return qe.OrderBy(given.key, _DIRECTIONS[given.direction], _start(given.start_from))


def payload_wanted(
    request: pb.GetPoints | pb.ScrollPoints | pb.QueryPoints | pb.QueryPointGroups, *, otherwise: bool
) -> Any:
    """Return the engine's selector, or ``otherwise`` where the request has none."""
    wanted = request.with_payload
    match wanted.WhichOneof("selector_options"):
        case "enable":
            return wanted.enable
        case "include":
            return qe.PayloadSelector.Include(list(wanted.include.fields))
        case "exclude":
            return qe.PayloadSelector.Exclude(list(wanted.exclude.fields))
    return otherwise


def vectors_wanted(
    request: pb.GetPoints | pb.ScrollPoints | pb.QueryPoints | pb.QueryPointGroups,
) -> bool | list[str]:
    wanted = request.with_vectors
    if wanted.WhichOneof("selector_options") == "include":
        return list(wanted.include.names)
    return wanted.enable


def retrieved(record: qe.Record) -> pb.RetrievedPoint:
    return pb.RetrievedPoint(
        id=ids.to_proto(record.id),
        payload=payloads.to_proto(record.payload),
        vectors=vectors.to_proto(record.vector),
        order_value=_order_value(record.order_value),
    )


def hits(request: pb.QueryPoints, found: Sequence[qe.ScoredPoint]) -> list[pb.ScoredPoint]:
    """Answer a query with what it wants of the points that were found."""
    answer = [scored(point, point) for point in found]
    if request.query.HasField("nearest_with_mmr"):
        # The engine returns all vectors of these, whatever was asked for.
        wanted = vectors_wanted(request)
        for hit in answer:
            if not wanted:
                hit.ClearField("vectors")
            elif isinstance(wanted, list):
                for name in {*hit.vectors.vectors.vectors} - {*wanted}:
                    del hit.vectors.vectors.vectors[name]
    return answer


def scored(point: qe.ScoredPoint, content: qe.ScoredPoint | qe.Record) -> pb.ScoredPoint:
    """Answer with a point that was found, whose payload and vectors are those of ``content``."""
    return pb.ScoredPoint(
        id=ids.to_proto(point.id),
        payload=payloads.to_proto(content.payload),
        score=point.score,
        version=point.version,
        vectors=vectors.to_proto(content.vector),
        order_value=_order_value(point.order_value),
    )


def facet_hit(hit: qe.FacetHit) -> pb.FacetHit:
    # bool before int, of which it is one.
    match hit.value:
        case bool():
            value = pb.FacetValue(bool_value=hit.value)
        case int():
            value = pb.FacetValue(integer_value=hit.value)
        case _:
            value = pb.FacetValue(string_value=str(hit.value))
    return pb.FacetHit(value=value, count=hit.count)


def _params(given: pb.SearchParams) -> qe.SearchParams:
    # Nothing is a graph here, so hnsw_ef has no say; and indexed_only would hide points.
    quantization = qe.QuantizationSearchParams(rescore=True, oversampling=2.0)  # recall 1.0
    if given.HasField("quantization"):
        told = given.quantization
        quantization = qe.QuantizationSearchParams(
            told.ignore,
            told.rescore if told.HasField("rescore") else True,
            told.oversampling if told.HasField("oversampling") else 2.0,
        )
    return qe.SearchParams(exact=given.exact, quantization=quantization)


def _start(given: pb.StartFrom) -> int | float | str | None:
    match given.WhichOneof("value"):
        case "integer":
            return given.integer
        case "float":
            return given.float
        case "timestamp":
            return given.timestamp.ToJsonString()
        case "datetime":
            return given.datetime
    return None


def _order_value(value: int | float | None) -> pb.OrderValue | None:
    if value is None:
        return None
    return pb.OrderValue(int=value) if isinstance(value, int) else pb.OrderValue(float=value)
