# SPDX-License-Identifier: Apache-2.0
"""Conditions on the stored fields of indexed items, as an expression tree."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Operator = Literal["=", "<", "<=", ">", ">="]
Value = str | float | bool | datetime


@dataclass(frozen=True)
class Comparison:
    """A comparison of a stored field with a value.

    A list fits if one of its elements does. Equality with None means that nothing is stored.
    """

    key: str
    operator: Operator
    value: Value | None


@dataclass(frozen=True)
class Not:
    """The negation of a condition; an item without the compared field fits."""

    operand: "Condition"


@dataclass(frozen=True)
class And:
    """The conjunction of conditions, never directly inside another; without operands, every item fits."""

    operands: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Or:
    """The disjunction of two or more conditions, never directly inside another."""

    operands: tuple["Condition", ...]


Condition = And | Or | Not | Comparison

ANY_ITEM = And()


def equals(key: str, value: Value | None) -> Comparison:
    """Return the condition that a field has a value."""
    return Comparison(key, "=", value)


def one_of(key: str, values: Iterable[str]) -> Condition:
    """Return the condition that a keyword field has one of ``values``, of which there is at least one."""
    return any_of(equals(key, str(value)) for value in values)


def all_of(conditions: Iterable[Condition]) -> Condition:
    """Return the conjunction of conditions, without nesting and without those that every item fits."""
    return _joined(And, [each for each in conditions if each != ANY_ITEM])


def any_of(conditions: Iterable[Condition]) -> Condition:
    """Return the disjunction of one or more conditions, without nesting."""
    return _joined(Or, list(conditions))


def _joined(kind: type[And] | type[Or], operands: list[Condition]) -> Condition:
    if len(operands) == 1:
        return operands[0]
    flat = [
        inner
        for operand in operands
        for inner in (operand.operands if isinstance(operand, kind) else (operand,))
    ]
    return kind(tuple(flat))
