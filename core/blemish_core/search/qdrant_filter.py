# SPDX-License-Identifier: Apache-2.0
"""Compilation of conditions to Qdrant's filter messages."""

from collections.abc import Sequence

from qdrant_client import grpc as qg

from blemish_core.search.conditions import ANY_ITEM, And, Comparison, Condition, Not, Operator, Or

_BOUNDS: dict[Operator, tuple[str, ...]] = {
    "=": ("gte", "lte"),  # Qdrant's match compares no fractions and no times
    "<": ("lt",),
    "<=": ("lte",),
    ">": ("gt",),
    ">=": ("gte",),
}


def compile_filter(condition: Condition) -> qg.Filter | None:
    """Return a condition as Qdrant's filter, None if every item fits.

    Negations become ``must_not``, which points without the field also fit.
    """
    return None if condition == ANY_ITEM else _filter(condition)


def _filter(condition: Condition) -> qg.Filter:
    match condition:
        case And(operands):
            return qg.Filter(
                must=[_condition(each) for each in operands if not isinstance(each, Not)],
                must_not=[_condition(each.operand) for each in operands if isinstance(each, Not)],
            )
        case Not(operand):
            return qg.Filter(must_not=[_condition(operand)])
        case Or(operands) if _keywords(operands) is None:
            return qg.Filter(should=[_condition(each) for each in operands])
        case _:
            return qg.Filter(must=[_condition(condition)])


def _condition(condition: Condition) -> qg.Condition:
    match condition:
        case Comparison(key, _, None):
            return qg.Condition(is_empty=qg.IsEmptyCondition(key=key))
        case Comparison():
            return qg.Condition(field=_field(condition))
        case Or(operands) if (keywords := _keywords(operands)) is not None:
            return qg.Condition(field=keywords)
        case _:
            return qg.Condition(filter=_filter(condition))


def _keywords(operands: Sequence[Condition]) -> qg.FieldCondition | None:
    """Return a disjunction of keywords of one field as one match, None if it is anything else."""
    keys: set[str] = set()
    values: list[str] = []
    for operand in operands:
        match operand:
            case Comparison(key, "=", str(value)):
                keys.add(key)
                values.append(value)
            case _:
                return None
    if len(keys) != 1:
        return None
    return qg.FieldCondition(key=keys.pop(), match=qg.Match(keywords=qg.RepeatedStrings(strings=values)))


def _field(comparison: Comparison) -> qg.FieldCondition:
    key, value, bounds = comparison.key, comparison.value, _BOUNDS[comparison.operator]
    match value:
        case str():
            return qg.FieldCondition(key=key, match=qg.Match(keyword=value))
        case bool():
            return qg.FieldCondition(key=key, match=qg.Match(boolean=value))
        case float() | int():
            return qg.FieldCondition(key=key, range=qg.Range(**dict.fromkeys(bounds, value)))
        case _:
            times = dict.fromkeys(bounds, value)
            return qg.FieldCondition(key=key, datetime_range=qg.DatetimeRange(**times))
