# SPDX-License-Identifier: Apache-2.0
"""Conditions as Qdrant's filters, for the search index."""

from datetime import datetime

from qdrant_client import models as qm

from blemish_core.search.fields import Operator
from blemish_core.search.filter_language import And, Comparison, Condition, Not, Or

_BOUNDS: dict[Operator, tuple[str, ...]] = {
    "=": ("gte", "lte"),  # a match compares whole numbers only, and no times
    "<": ("lt",),
    "<=": ("lte",),
    ">": ("gt",),
    ">=": ("gte",),
}


def to_filter(condition: Condition) -> qm.Filter | None:
    """Say it in Qdrant's words; None fits everything.

    Negations are ``must_not``, which points without the field fit as well.
    """
    return None if condition == And() else _filter(condition)


def _filter(condition: Condition) -> qm.Filter:
    match condition:
        case And(parts):
            must = [_part(part) for part in parts if not isinstance(part, Not)]
            must_not = [_part(part.part) for part in parts if isinstance(part, Not)]
            return qm.Filter(must=must or None, must_not=must_not or None)
        case Or(parts):
            return qm.Filter(should=[_part(part) for part in parts])
        case Not(part):
            return qm.Filter(must_not=[_part(part)])
        case Comparison():
            return qm.Filter(must=[_part(condition)])


def _part(condition: Condition) -> qm.Condition:
    return _compared(condition) if isinstance(condition, Comparison) else _filter(condition)


def _compared(comparison: Comparison) -> qm.Condition:
    key, value, bounds = comparison.key, comparison.value, _BOUNDS[comparison.operator]
    if value is None:
        return qm.IsEmptyCondition(is_empty=qm.PayloadField(key=key))
    if isinstance(value, (str, bool)):
        return qm.FieldCondition(key=key, match=qm.MatchValue(value=value))
    if isinstance(value, datetime):
        return qm.FieldCondition(key=key, range=qm.DatetimeRange(**dict.fromkeys(bounds, value)))
    return qm.FieldCondition(key=key, range=qm.Range(**dict.fromkeys(bounds, value)))
