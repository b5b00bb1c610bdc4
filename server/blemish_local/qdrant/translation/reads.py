# SPDX-License-Identifier: Apache-2.0
"""Reads: requests parsed into the engine's, and found points converted back."""

from collections.abc import Sequence
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import filters, ids, payloads, vectors

_LIMIT = 10
"""Number of results if the request does not set a limit."""
_RESCORE, _OVERSAMPLING = True, 2.0
"""Defaults that make a search of the quantized vectors exact."""
_DIRECTIONS = {pb.Direction.Asc: qe.Direction.Asc, pb.Direction.Desc: qe.Direction.Desc}


def parse_scroll(request: pb.ScrollPoints) -> qe.ScrollRequest:
    return qe.ScrollRequest(
        offset=ids.parse_id(request.offset) if request.HasField("offset") else None,
        limit=parse_limit(request),
        filter=parse_where(request),
        with_payload=parse_payload_selector(request, default=True),
        with_vector=parse_vectors_selector(request),
        order_by=_order_by(request.order_by) if request.HasField("order_by") else None,
    )


def parse_count(request: pb.CountPoints) -> qe.CountRequest:
    exact = request.exact if request.HasField("exact") else True
    return qe.CountRequest(exact, parse_where(request))


def parse_facet(request: pb.FacetCounts) -> qe.FacetRequest:
    return qe.FacetRequest(request.key, parse_limit(request), request.exact, parse_where(request))


def parse_search(
    request: pb.QueryPoints, query: qe.Query | qe.Mmr | None, where: qe.Filter | None
) -> qe.QueryRequest:
    """Return the engine's search with a query and a filter that were parsed before."""
    return qe.QueryRequest(
        limit=parse_limit(request),
        offset=request.offset,
        query=query,
        filter=where,
        score_threshold=None,
        params=_search_params(request.params),
        with_payload=parse_payload_selector(request, default=False),
        with_vector=parse_vectors_selector(request),
    )


def parse_limit(request: pb.ScrollPoints | pb.FacetCounts | pb.QueryPoints) -> int:
    """Return the number of results to find.

    Raises:
        BadRequest: if it is 0.
    """
    if not request.HasField("limit"):
        return _LIMIT
    if request.limit == 0:
        raise BadRequest("the limit is 0; use at least 1")
    return request.limit


def parse_where(
    request: pb.ScrollPoints | pb.CountPoints | pb.FacetCounts | pb.QueryPoints,
) -> qe.Filter | None:
    """Return the request's filter, if it has one."""
    return filters.parse_filter(request.filter) if request.HasField("filter") else None


def parse_payload_selector(
    request: pb.GetPoints | pb.ScrollPoints | pb.QueryPoints | pb.QueryPointGroups, *, default: bool
) -> Any:
    """Return the engine's selector of payload fields, or the default if the request sets none.

    Raises:
        Unsupported: for a list of fields to exclude.
    """
    selector = request.with_payload
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return qe.PayloadSelector.Include(list(selector.include.fields))
        case "exclude":
            raise Unsupported("excluding payload fields")
    return default


def parse_vectors_selector(
    request: pb.GetPoints | pb.ScrollPoints | pb.QueryPoints | pb.QueryPointGroups,
) -> bool:
    """Return True if the vectors are part of the result.

    Raises:
        Unsupported: for vectors selected by name.
    """
    if request.with_vectors.WhichOneof("selector_options") == "include":
        raise Unsupported("named vectors")
    return request.with_vectors.enable


def record_to_proto(record: qe.Record) -> pb.RetrievedPoint:
    return pb.RetrievedPoint(
        id=ids.id_to_proto(record.id),
        payload=payloads.payload_to_proto(record.payload),
        vectors=vectors.vector_to_proto(record.vector),
        order_value=_order_value(record.order_value),
    )


def hits_to_proto(request: pb.QueryPoints, found: Sequence[qe.ScoredPoint]) -> list[pb.ScoredPoint]:
    """Convert the hits of a query, with the payload and vectors that it selects."""
    hits = [hit_to_proto(point, point) for point in found]
    if request.query.HasField("nearest_with_mmr") and not parse_vectors_selector(request):
        # The engine returns the vectors of MMR's hits even if they are not selected.
        for hit in hits:
            hit.ClearField("vectors")
    return hits


def hit_to_proto(point: qe.ScoredPoint, content: qe.ScoredPoint | qe.Record) -> pb.ScoredPoint:
    """Convert a hit; its payload and vector come from ``content``."""
    return pb.ScoredPoint(
        id=ids.id_to_proto(point.id),
        payload=payloads.payload_to_proto(content.payload),
        score=point.score,
        version=point.version,
        vectors=vectors.vector_to_proto(content.vector),
    )


def facet_hit_to_proto(hit: qe.FacetHit) -> pb.FacetHit:
    # Test bool before int, which it is a subclass of.
    match hit.value:
        case bool():
            value = pb.FacetValue(bool_value=hit.value)
        case int():
            value = pb.FacetValue(integer_value=hit.value)
        case _:
            value = pb.FacetValue(string_value=str(hit.value))
    return pb.FacetHit(value=value, count=hit.count)


def _order_by(given: pb.OrderBy) -> qe.OrderBy:
    if given.HasField("start_from"):
        raise Unsupported("start_from of an order")
    if given.direction not in _DIRECTIONS:
        raise BadRequest(f"{given.direction} is not a direction to order by; use Asc or Desc")
    return qe.OrderBy(given.key, _DIRECTIONS[given.direction])


def _order_value(value: int | float | None) -> pb.OrderValue | None:
    if value is None:
        return None
    return pb.OrderValue(int=value) if isinstance(value, int) else pb.OrderValue(float=value)


def _search_params(given: pb.SearchParams) -> qe.SearchParams:
    # There is no graph, so hnsw_ef has no effect. indexed_only would hide points.
    chosen = given.quantization
    quantization = qe.QuantizationSearchParams(
        chosen.ignore,
        chosen.rescore if chosen.HasField("rescore") else _RESCORE,
        chosen.oversampling if chosen.HasField("oversampling") else _OVERSAMPLING,
    )
    return qe.SearchParams(exact=given.exact, quantization=quantization)
