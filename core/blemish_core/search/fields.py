# SPDX-License-Identifier: Apache-2.0
"""The fields of an indexed item that a condition may name, and how each is stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from blemish_core.platform import names
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef

Operator = Literal["=", "<", "<=", ">", ">="]

# As written, and as it is in the tree: != becomes a negation, and "has" is equality with one of a list.
_EQUALITY: dict[str, Operator] = {"=": "=", "!=": "=", ":": "="}
_ORDER: dict[str, Operator] = _EQUALITY | {"<": "<", "<=": "<=", ">": ">", ">=": ">="}


class Kind(Enum):
    """What a field holds: in the words of a refusal, and the operators for it."""

    KEYWORD = ("a text", _EQUALITY)
    KEYWORDS = ("a list of texts", {":": "="})
    NUMBER = ("a number", _ORDER)
    FLAG = ("one of two values", _EQUALITY)
    TIME = ("a time", _ORDER)

    def __init__(self, words: str, operators: dict[str, Operator]) -> None:
        self.words, self.operators = words, operators


@dataclass(frozen=True)
class Field:
    """What a comparison may be about; its name is the caller's choice, dots included."""

    kind: Kind
    key: str
    """What it is stored under."""
    read: Callable[[str], str | bool | None] | None = None
    """Turns a written text or flag into the stored one, None if that is nothing.

    Raises:
        InvalidRequest: for what cannot be stored.
    """


def one_of(meanings: Mapping[str, str | bool | None]) -> Callable[[str], str | bool | None]:
    """Make a ``Field.read`` that knows a few words."""

    def read(word: str) -> str | bool | None:
        if word not in meanings:
            raise InvalidRequest(f"{word!r} is none of {', '.join(meanings)}")
        return meanings[word]

    return read


def _dataset(word: str) -> str:
    return names.dataset_id(word) if "/" in word else names.validate_id(word, "")


def _version(word: str) -> str:
    ref = ModelRef.parse(word)
    if ref.version is None:
        raise InvalidRequest(f"{word!r} is not a fixed version: write models/{ref.model}/versions/N")
    return str(ref)


SEARCH_FIELDS: Mapping[str, Field] = {
    "dataset": Field(Kind.KEYWORD, "dataset", _dataset),
    "category": Field(Kind.KEYWORD, "category"),
    "class": Field(Kind.KEYWORD, "class_name"),
    "verdict": Field(Kind.FLAG, "anomalous", one_of({"NORMAL": False, "ANOMALOUS": True})),
    "model": Field(Kind.KEYWORD, "model_version", _version),
    "camera": Field(Kind.KEYWORD, "camera"),
    "source": Field(Kind.KEYWORD, "source", one_of({"dataset": "dataset", "camera": "camera"})),
    "time": Field(Kind.TIME, "time"),
    "score": Field(Kind.NUMBER, "score"),
    "p_value": Field(Kind.NUMBER, "p_value"),
    "label": Field(
        Kind.KEYWORD,
        "label",
        # What was indexed before there were labels has none stored; so has every other unlabelled item.
        one_of({"CONFIRMED": "CONFIRMED", "FALSE_ALARM": "FALSE_ALARM", "GOOD": "GOOD", "NONE": None}),
    ),
    "label_class": Field(Kind.KEYWORD, "label_class"),
}
"""What a similarity search may ask of an indexed item."""
