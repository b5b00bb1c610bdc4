# SPDX-License-Identifier: Apache-2.0
"""Filters: conditions on payloads and ids."""

from typing import Any

import numpy as np
import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import ids

_BOUNDS = ("gte", "gt", "lte", "lt")


def parse_filter(given: pb.Filter) -> qe.Filter:
    """Parse a filter.

    Raises:
        BadRequest: if a condition is empty.
        Unsupported: for conditions that blemish does not use.
        ValueError: from the engine, for values that it cannot parse.
    """
    if given.HasField("min_should"):
        raise Unsupported("the condition min_should")
    return qe.Filter(
        must=[_condition(each) for each in given.must] or None,
        should=[_condition(each) for each in given.should] or None,
        must_not=[_condition(each) for each in given.must_not] or None,
    )


def _condition(given: pb.Condition) -> Any:
    match given.WhichOneof("condition_one_of"):
        case "field":
            return _field_condition(given.field)
        case "has_id":
            return qe.HasIdCondition(set(ids.parse_ids(given.has_id.has_id)))
        case "filter":
            return parse_filter(given.filter)
        case "is_empty":
            return qe.IsEmptyCondition(given.is_empty.key)
        case None:
            raise BadRequest("a condition of the filter is empty; leave it out")
        case kind:
            raise Unsupported(f"the condition {kind}")


def _field_condition(given: pb.FieldCondition) -> qe.FieldCondition:
    parsed: dict[str, Any] = {}
    for part, _ in given.ListFields():
        match part.name:
            case "key":
                continue
            case "match":
                parsed["match"] = _match(given.match)
            case "range":
                parsed["range"] = qe.RangeFloat(**_bounds(given.range))
            case "datetime_range":
                parsed["range"] = qe.RangeDateTime(**_times(given.datetime_range))
            case kind:
                raise Unsupported(f"the condition {kind}")
    if not parsed:
        raise BadRequest(f"the condition on {given.key[:80]!r} is empty; leave it out")
    return qe.FieldCondition(given.key, **parsed)


def _match(given: pb.Match) -> Any:
    match given.WhichOneof("match_value"):
        case "keyword":
            return qe.MatchValue(given.keyword)
        case "integer":
            return qe.MatchValue(given.integer)
        case "boolean":
            # qdrant-edge 0.9.0 reads Python's True as the integer 1, which matches nothing.
            return qe.MatchValue(np.bool_(given.boolean))  # type: ignore[arg-type]  # not in stub
        case "keywords":
            return qe.MatchAny(list(given.keywords.strings))
        case "integers":
            return qe.MatchAny(list(given.integers.integers))
        case None:
            raise BadRequest("a match of the filter has no value; leave it out")
        case kind:
            raise Unsupported(f"the match {kind}")


def _bounds(given: pb.Range) -> dict[str, Any]:
    return {side: getattr(given, side) for side in _BOUNDS if given.HasField(side)}  # type: ignore[arg-type]


def _times(given: pb.DatetimeRange) -> dict[str, Any]:
    return {side: getattr(given, side).ToJsonString() for side in _BOUNDS if given.HasField(side)}  # type: ignore[arg-type]
