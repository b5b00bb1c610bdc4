# SPDX-License-Identifier: Apache-2.0
"""Filters: conditions on payloads and ids, from Qdrant's protobuf form to the engine's."""

from typing import Any

import numpy as np
import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import ids

_BOUNDS = ("gte", "gt", "lte", "lt")


def from_proto(given: pb.Filter) -> qe.Filter:
    """Read a filter.

    Raises:
        BadRequest: if a condition is empty.
        Unsupported: for conditions on places and slices.
        ValueError: as the engine raises it, for what it cannot parse.
    """
    least = None
    if given.HasField("min_should"):
        least = qe.MinShould(
            [_condition(each) for each in given.min_should.conditions], given.min_should.min_count
        )
    return qe.Filter(
        must=[_condition(each) for each in given.must] or None,
        should=[_condition(each) for each in given.should] or None,
        must_not=[_condition(each) for each in given.must_not] or None,
        min_should=least,
    )


def _condition(given: pb.Condition) -> Any:
    match given.WhichOneof("condition_one_of"):
        case "field":
            return _on_field(given.field)
        case "has_id":
            return qe.HasIdCondition(set(ids.all_from_proto(given.has_id.has_id)))
        case "filter":
            return from_proto(given.filter)
        case "is_empty":
            return qe.IsEmptyCondition(given.is_empty.key)
        case "is_null":
            return qe.IsNullCondition(given.is_null.key)
        case "has_vector":
            return qe.HasVectorCondition(given.has_vector.has_vector)
        case "nested":
            return qe.NestedCondition(given.nested.key, from_proto(given.nested.filter))
        case None:
            raise BadRequest("a condition of the filter is empty: leave it out")
        case kind:
            raise Unsupported(f"{kind} condition")


def _on_field(given: pb.FieldCondition) -> qe.FieldCondition:
    asked: dict[str, Any] = {}
    for part, _ in given.ListFields():
        match part.name:
            case "key":
                continue
            case "match":
                asked["match"] = _match(given.match)
            case "range":
                asked["range"] = qe.RangeFloat(**_bounds(given.range))
            case "datetime_range":
                asked["range"] = qe.RangeDateTime(**_moments(given.datetime_range))
            case "values_count":
                asked["values_count"] = qe.ValuesCount(**_bounds(given.values_count))
            case "is_empty":
                asked["is_empty"] = given.is_empty
            case "is_null":
                asked["is_null"] = given.is_null
            case kind:
                raise Unsupported(f"{kind} condition")
    if not asked:
        raise BadRequest(f"the condition on {given.key[:80]!r} asks for nothing: leave it out")
    return qe.FieldCondition(given.key, **asked)


def _match(given: pb.Match) -> Any:
    match given.WhichOneof("match_value"):
        case "keyword":
            return qe.MatchValue(given.keyword)
        case "integer":
            return qe.MatchValue(given.integer)
        case "boolean":
            # qdrant-edge 0.9.0 takes Python's own True for the integer 1, which matches nothing.
            return qe.MatchValue(np.bool_(given.boolean))  # type: ignore[arg-type]  # not in stub
        case "keywords":
            return qe.MatchAny(list(given.keywords.strings))
        case "integers":
            return qe.MatchAny(list(given.integers.integers))
        case "except_keywords":
            return qe.MatchExcept(list(given.except_keywords.strings))
        case "except_integers":
            return qe.MatchExcept(list(given.except_integers.integers))
        case "text":
            return qe.MatchText(given.text)
        case "text_any":
            return qe.MatchTextAny(given.text_any)
        case "phrase":
            return qe.MatchPhrase(given.phrase)
        case "prefix":
            return qe.MatchPrefix(given.prefix)
        case "substring":
            return qe.MatchSubstring(given.substring)
    raise BadRequest("a match in the filter names no value: leave it out")


def _bounds(given: pb.Range | pb.ValuesCount) -> dict[str, Any]:
    return {side: getattr(given, side) for side in _BOUNDS if given.HasField(side)}  # type: ignore[arg-type]


def _moments(given: pb.DatetimeRange) -> dict[str, Any]:
    return {side: getattr(given, side).ToJsonString() for side in _BOUNDS if given.HasField(side)}  # type: ignore[arg-type]
