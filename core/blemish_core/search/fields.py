# SPDX-License-Identifier: Apache-2.0
"""The fields of an indexed item that a filter may name, and how each is stored."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from blemish_core.platform import names
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import Operator

# Operators as written and as stored in the tree. ``!=`` becomes a negation, and ``:`` is equality.
_EQUALITY: dict[str, Operator] = {"=": "=", "!=": "=", ":": "="}
_ORDER: dict[str, Operator] = _EQUALITY | {"<": "<", "<=": "<=", ">": ">", ">=": ">="}


class FieldKind(Enum):
    """The type of a field: its description in errors, and its operators."""

    KEYWORD = ("a text", _EQUALITY)
    KEYWORDS = ("a list of texts", {":": "="})
    NUMBER = ("a number", _ORDER)
    FLAG = ("one of two values", _EQUALITY)
    TIME = ("a time", _ORDER)

    def __init__(self, description: str, operators: dict[str, Operator]) -> None:
        self.description, self.operators = description, operators


@dataclass(frozen=True)
class FilterField:
    """A field that comparisons may name. Its name may contain dots."""

    kind: FieldKind
    key: str
    """Key of the payload that stores it."""
    parse: Callable[[str], str | bool | None] | None = None
    """Conversion of a written text or flag to the stored value; None stands for nothing stored.

    Raises:
        InvalidRequest: if no item can have the value.
    """


def choice(values: Mapping[str, str | bool | None], prefix: str = "") -> Callable[[str], str | bool | None]:
    """Return a ``FilterField.parse`` that accepts the keys of ``values``, in each spelling that is printed.

    Args:
        values: stored values by their names on the command line, such as ``false-alarm``.
        prefix: start of the names of the contract's enum, such as ``LABEL_`` of ``LABEL_FALSE_ALARM``.
    """

    def parse(word: str) -> str | bool | None:
        name = word.upper().removeprefix(prefix).replace("_", "-").lower()
        if name not in values:
            raise InvalidRequest(f"{word!r} is not a valid value; use {', '.join(values)}")
        return values[name]

    return parse


_SHORT_VERSION = re.compile(r"^(?:models/)?([^/@]+)/([0-9]+)$")


def _dataset(word: str) -> str:
    return names.dataset_id(word) if "/" in word else names.validate_id(word, "")


def _version(word: str) -> str:
    ref = ModelRef.parse(_SHORT_VERSION.sub(r"models/\1/versions/\2", word))
    if ref.version is None:
        raise InvalidRequest(f"{word!r} is not a fixed version; write models/{ref.model}/versions/N")
    return str(ref)


SEARCH_FIELDS: Mapping[str, FilterField] = {
    "dataset": FilterField(FieldKind.KEYWORD, "dataset", _dataset),
    "category": FilterField(FieldKind.KEYWORD, "category"),
    "class": FilterField(FieldKind.KEYWORD, "class_name"),
    "verdict": FilterField(
        FieldKind.FLAG, "anomalous", choice({"normal": False, "anomalous": True}, "VERDICT_")
    ),
    "model": FilterField(FieldKind.KEYWORD, "model_version", _version),
    "camera": FilterField(FieldKind.KEYWORD, "camera"),
    "name": FilterField(FieldKind.KEYWORD, "name"),
    "source": FilterField(FieldKind.KEYWORD, "source", choice({"dataset": "dataset", "camera": "camera"})),
    "time": FilterField(FieldKind.TIME, "time"),
    "score": FilterField(FieldKind.NUMBER, "score"),
    "p_value": FilterField(FieldKind.NUMBER, "p_value"),
    "label": FilterField(
        FieldKind.KEYWORD,
        "label",
        # Unlabelled items store no label, including those indexed before labels existed.
        choice(
            {"confirmed": "CONFIRMED", "false-alarm": "FALSE_ALARM", "good": "GOOD", "none": None}, "LABEL_"
        ),
    ),
    "label_class": FilterField(FieldKind.KEYWORD, "label_class"),
}
"""Fields of the ``where`` filter of searches and listings."""
