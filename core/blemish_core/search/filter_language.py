# SPDX-License-Identifier: Apache-2.0
"""Conditions on items, written in the filter language of AIP-160 (https://google.aip.dev/160).

    dataset = datasets/tile (class = crack OR class = oil) AND score > 0.8 -label = FALSE_ALARM

What surprises newcomers is the AIP's: OR binds tighter than AND, conditions side by side are joined by AND,
keywords are in capitals. A negation, be it ``!=``, ``NOT`` or ``-``, also finds the items that lack the
field: of them, too, it is not true that the field has the value.

The tree speaks of what is stored, not of what was written. Wildcards, presence tests, functions and words
without a field are refused.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NoReturn

from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.fields import Field, Kind, Operator

MAX_CHARACTERS = 4096
MAX_COMPARISONS = 64
MAX_DEPTH = 32
"""Of parentheses and of the tree: each level costs two of the 100 messages that protobuf nests at most."""

Value = str | float | bool | datetime


@dataclass(frozen=True)
class Comparison:
    """What is stored under ``key``, or one of it where it is a list, compares so with ``value``.

    Equality with None holds where nothing is stored.
    """

    key: str
    operator: Operator
    value: Value | None


@dataclass(frozen=True)
class Not:
    part: "Condition"


@dataclass(frozen=True)
class And:
    """Every part holds; without parts, everything fits. Never directly in another And."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Or:
    """At least one of two or more parts holds. Never directly in another Or."""

    parts: tuple["Condition", ...]


Condition = And | Or | Not | Comparison


def parse(text: str, fields: Mapping[str, Field], field: str = "where") -> Condition:
    """Read a condition; a blank one fits everything.

    Raises:
        InvalidRequest: if ``text`` is not one, or goes past a limit.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"the filter has {len(text)} characters, {MAX_CHARACTERS} at most: shorten it", field=field
        )
    condition = _Parser(text, fields, field).whole()
    if _depth(condition) > MAX_DEPTH:
        raise InvalidRequest(
            f"AND, OR and NOT alternate over more than {MAX_DEPTH} levels: simplify the filter", field=field
        )
    return condition


# None of these can match one stretch in two ways, so a refusal takes no longer than a match.
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\s()\"'=<>!:,]*")
_WORD = re.compile(r"[^\s()\"'=<>!,]*")  # a value: times have colons
_OPERATOR = re.compile(r"(<=|>=|!=|[=<>:])?")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[-+]\d\d:\d\d)", re.ASCII)
_FOUND = re.compile(r"[^\s()]+|.?", re.DOTALL)
_KEYWORDS = ("AND", "OR", "NOT")
_MEANT = {"and": "AND", "or": "OR", "not": "NOT", "&&": "AND", "||": "OR"}
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "*": "*", "n": "\n", "r": "\r", "t": "\t"}
_SHOWN = 40
"""Letters that a refusal shows before and after its place: it travels in a header, and those are small."""


class _Parser:
    """Recursive descent, without tokens: what ends a word depends on whether it is a name or a value."""

    def __init__(self, text: str, fields: Mapping[str, Field], field: str) -> None:
        self._text, self._fields, self._field = text, fields, field
        self._at = self._comparisons = 0

    def whole(self) -> Condition:
        self._take(_SPACE)
        if not self._next():
            return And()
        condition = self._expression(depth=0)
        if self._next():
            self._refuse("this ')' closes nothing: take it out")
        return condition

    def _expression(self, depth: int) -> Condition:
        """``factor {[AND] factor}``; the AIP's sequence differs from AND in its name alone."""
        parts = [self._factor(depth)]
        while self._next() not in ("", ")"):
            self._keyword("AND")
            parts.append(self._factor(depth))
        return _joined(And, parts)

    def _factor(self, depth: int) -> Condition:
        """``term {OR term}``."""
        parts = [self._term(depth)]
        while self._keyword("OR"):
            parts.append(self._term(depth))
        return _joined(Or, parts)

    def _term(self, depth: int) -> Condition:
        """``[NOT | -] (comparison | "(" expression ")")``."""
        negated = self._keyword("NOT")
        if not negated and self._next() == "-":
            self._at += 1
            negated = True
        part = self._group(depth + 1) if self._next() == "(" else self._comparison()
        return Not(part) if negated else part

    def _group(self, depth: int) -> Condition:
        opened = self._at
        if depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} parentheses inside each other: simplify the filter")
        self._skip()
        condition = self._expression(depth)
        if not self._next():
            self._refuse("this '(' is not closed: add ')'", opened)
        self._skip()
        return condition

    def _comparison(self) -> Condition:
        start, name = self._at, self._take(_NAME)
        if name not in self._fields:
            self._refuse_name(name, start)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._refuse(f"more than {MAX_COMPARISONS} comparisons: ask for less at once", start)
        kind = self._fields[name].kind
        self._take(_SPACE)
        at, written = self._at, self._take(_OPERATOR)
        if written not in kind.operators:
            found = (
                f"{name} has no {written}" if written else f"expected an operator, not {self._found(at)}"
            )
            self._refuse(f"{found}: {name} is {kind.words}, compared with {' '.join(kind.operators)}", at)
        self._take(_SPACE)
        value = self._value(name)
        if (after := self._next()) not in ("", ")") and not after.isspace():
            self._refuse(f"expected a space after the value, not {after!r}: a value with it needs quotes")
        self._take(_SPACE)
        comparison = Comparison(self._fields[name].key, kind.operators[written], value)
        return Not(comparison) if written == "!=" else comparison

    def _value(self, name: str) -> Value | None:
        start, field = self._at, self._fields[name]
        quoted = self._next() in ('"', "'")
        word, wild = self._quoted() if quoted else self._bare(name)
        if wild:
            self._refuse(r"wildcards are not supported: write the whole value, or '\*' in quotes", start)
        match field.kind:
            case Kind.NUMBER:
                if quoted or not _NUMBER.fullmatch(word) or not math.isfinite(float(word)):
                    self._refuse(f"{name} takes a finite number without quotes, such as 0.5 or -1e3", start)
                return float(word)
            case Kind.TIME:
                return self._time(name, word, start)
            case Kind.FLAG if not field.read:
                if quoted or word not in ("true", "false"):
                    self._refuse(f"{name} takes true or false, without quotes", start)
                return word == "true"
        try:
            return field.read(word) if field.read else word
        except InvalidRequest as error:
            self._refuse(f"{name}: {_short(str(error), 5 * _SHOWN)}", start)

    def _time(self, name: str, word: str, start: int) -> datetime:
        with suppress(ValueError, OverflowError):  # the 30th of February; before the year 1
            if _TIME.fullmatch(word.upper()):
                return datetime.fromisoformat(word.upper()).astimezone(UTC)
        self._refuse(f"{name} takes a time of RFC 3339, with its zone, such as 2026-01-31T08:00:00Z", start)

    def _bare(self, name: str) -> tuple[str, bool]:
        start, word = self._at, self._take(_WORD)
        if word in _KEYWORDS:
            self._refuse(f"expected a value, not {word}: put it in quotes if you mean the text", start)
        if not word:
            hints = {"(": f": write {name} again for each value, joined by OR", "=": ": one '=' is enough"}
            self._refuse(f"expected a value, not {self._found(start)}{hints.get(self._next(), '')}", start)
        return word, "*" in (word[0], word[-1])

    def _quoted(self) -> tuple[str, bool]:
        """Read on past the closing quote: the text, and whether it begins or ends with a bare star."""
        start, quote, letters, stars = self._at, self._next(), list[str](), set[int]()
        self._at += 1
        while (letter := self._next()) != quote:
            if letter == "\\":
                self._at += 1
                letter = _ESCAPES.get(self._next(), "")
                if not letter and self._next():
                    self._refuse(r"escapes are \\ \" \' \* \n \r \t: write a backslash twice", self._at - 1)
            elif letter == "*":
                stars.add(len(letters))
            if not letter:
                self._refuse(f"this text is not closed: add {quote}", start)
            letters.append(letter)
            self._at += 1
        self._at += 1
        return "".join(letters), bool(stars & {0, len(letters) - 1})

    def _next(self) -> str:
        """The letter to be read, none at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise AssertionError(f"{pattern} must match nothing as well; this is a bug")
        self._at = match.end()
        return match.group()

    def _skip(self) -> None:
        """Go past a parenthesis."""
        self._at += 1
        self._take(_SPACE)

    def _keyword(self, keyword: str) -> bool:
        start = self._at
        if self._take(_NAME) != keyword:
            self._at = start
            return False
        self._take(_SPACE)
        return True

    def _found(self, at: int) -> str:
        match = _FOUND.match(self._text, at)
        return repr(_short(match.group(), _SHOWN)) if match and match.group() else "the end"

    def _refuse_name(self, name: str, at: int) -> NoReturn:
        if not name or name in _KEYWORDS:
            self._refuse(f"expected a field, not {self._found(at)}", at)
        known, name = ", ".join(self._fields), _short(name, _SHOWN)
        if name in _MEANT:
            self._refuse(f"expected a field, not {name!r}: the keyword is {_MEANT[name]}", at)
        close = get_close_matches(name, self._fields, n=1)
        meant = f"did you mean {close[0]}? There are" if close else "there are"
        self._refuse(f"there is no field {name!r}: {meant} {known}", at)

    def _refuse(self, cause: str, at: int | None = None) -> NoReturn:
        """Raise InvalidRequest with a picture: the text around the place, and a caret below it."""
        at = self._at if at is None else at
        start, end = max(0, at - _SHOWN), at + _SHOWN
        before, after = "…" if start else "", "…" if end < len(self._text) else ""
        line = "".join(letter if letter.isprintable() else " " for letter in self._text[start:end])
        caret = " " * (len(before) + at - start) + "^"
        raise InvalidRequest(
            f"column {at + 1}: {cause}\n  {before}{line}{after}\n  {caret}", field=self._field
        ) from None


def _joined(kind: type[And] | type[Or], parts: list[Condition]) -> Condition:
    if len(parts) == 1:
        return parts[0]
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, kind) else (part,))]
    return kind(tuple(flat))


def _depth(condition: Condition) -> int:
    match condition:
        case And(parts) | Or(parts):
            return 1 + max(map(_depth, parts), default=0)
        case Not(part):
            return 1 + _depth(part)
        case Comparison():
            return 0


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
