# SPDX-License-Identifier: Apache-2.0
"""Parser of the filter language of AIP-160 (https://google.aip.dev/160).

    dataset = datasets/tile (class = crack OR class = oil) AND score > 0.8 -label = FALSE_ALARM

OR binds tighter than AND, adjacent conditions are joined by AND, and keywords are in capitals, all as in
the AIP. A negation (``!=``, ``NOT`` or ``-``) also selects the items that lack the field.

The resulting tree contains stored keys and values rather than those written. Wildcards, presence tests,
functions and words without a field are rejected.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NoReturn

from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.conditions import (
    ANY_ITEM,
    And,
    Comparison,
    Condition,
    Not,
    Or,
    Value,
    all_of,
    any_of,
)
from blemish_core.search.fields import FieldKind, FilterField

MAX_CHARACTERS = 4096
MAX_COMPARISONS = 64
MAX_DEPTH = 32
"""Depth limit of parentheses and of the tree. A level takes two of the 100 messages that protobuf nests."""


def parse(text: str, fields: Mapping[str, FilterField], field: str = "where") -> Condition:
    """Return the condition that a text describes; every item fits a blank one.

    Args:
        text: the filter.
        fields: fields that it may name.
        field: field of the request that errors name.

    Raises:
        InvalidRequest: if ``text`` is malformed or exceeds a limit.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"the filter has {len(text)} characters; shorten it to {MAX_CHARACTERS}", field=field
        )
    condition = _Parser(text, fields, field).parse()
    if _depth(condition) > MAX_DEPTH:
        raise InvalidRequest(
            f"AND, OR and NOT alternate over more than {MAX_DEPTH} levels; simplify the filter", field=field
        )
    return condition


# None of these can match the same text in two ways, so parsing takes linear time.
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\s()\"'=<>!:,]*")
_WORD = re.compile(r"[^\s()\"'=<>!,]*")  # a value; times contain colons
_OPERATOR = re.compile(r"(<=|>=|!=|[=<>:])?")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[-+]\d\d:\d\d)", re.ASCII)
_TOKEN = re.compile(r"[^\s()]+|.?", re.DOTALL)
_KEYWORDS = ("AND", "OR", "NOT")
_MISSPELLED = {"and": "AND", "or": "OR", "not": "NOT", "&&": "AND", "||": "OR"}
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "*": "*", "n": "\n", "r": "\r", "t": "\t"}
_EXCERPT = 40
"""Characters shown on each side of an error. Errors travel in headers, which are small."""


class _Parser:
    """A recursive descent parser without a lexer: names and values end at different characters."""

    def __init__(self, text: str, fields: Mapping[str, FilterField], field: str) -> None:
        self._text, self._fields, self._field = text, fields, field
        self._at = self._comparisons = 0

    def parse(self) -> Condition:
        self._take(_SPACE)
        if not self._peek():
            return ANY_ITEM
        condition = self._expression(depth=0)
        if self._peek():
            self._reject("this ')' has no '('; remove it")
        return condition

    def _expression(self, depth: int) -> Condition:
        """Parse ``factor {[AND] factor}``; the AIP's sequence and its AND mean the same."""
        operands = [self._factor(depth)]
        while self._peek() not in ("", ")"):
            self._keyword("AND")
            operands.append(self._factor(depth))
        return all_of(operands)

    def _factor(self, depth: int) -> Condition:
        """Parse ``term {OR term}``."""
        operands = [self._term(depth)]
        while self._keyword("OR"):
            operands.append(self._term(depth))
        return any_of(operands)

    def _term(self, depth: int) -> Condition:
        """Parse ``[NOT | -] (comparison | "(" expression ")")``."""
        negated = self._keyword("NOT")
        if not negated and self._peek() == "-":
            self._at += 1
            negated = True
        operand = self._group(depth + 1) if self._peek() == "(" else self._comparison()
        return Not(operand) if negated else operand

    def _group(self, depth: int) -> Condition:
        opened = self._at
        if depth > MAX_DEPTH:
            self._reject(f"parentheses are nested more than {MAX_DEPTH} deep; simplify the filter")
        self._skip_parenthesis()
        condition = self._expression(depth)
        if not self._peek():
            self._reject("this '(' is not closed; add ')'", opened)
        self._skip_parenthesis()
        return condition

    def _comparison(self) -> Condition:
        start, name = self._at, self._take(_NAME)
        if name not in self._fields:
            self._reject_name(name, start)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._reject(f"the filter has more than {MAX_COMPARISONS} comparisons; shorten it", start)
        kind = self._fields[name].kind
        self._take(_SPACE)
        at, written = self._at, self._take(_OPERATOR)
        if written not in kind.operators:
            found = (
                f"{name} has no operator {written}"
                if written
                else f"expected an operator, not {self._token(at)}"
            )
            self._reject(
                f"{found}; {name} is {kind.description}, compared with {' '.join(kind.operators)}", at
            )
        self._take(_SPACE)
        value = self._value(name)
        if (after := self._peek()) not in ("", ")") and not after.isspace():
            self._reject(f"expected a space after the value, not {after!r}; put a value with it in quotes")
        self._take(_SPACE)
        comparison = Comparison(self._fields[name].key, kind.operators[written], value)
        return Not(comparison) if written == "!=" else comparison

    def _value(self, name: str) -> Value | None:
        start, field = self._at, self._fields[name]
        quoted = self._peek() in ('"', "'")
        word, has_wildcard = self._quoted() if quoted else self._bare(name)
        if has_wildcard:
            self._reject(r"wildcards are not supported; write the whole value, or '\*' in quotes", start)
        match field.kind:
            case FieldKind.NUMBER:
                if quoted or not _NUMBER.fullmatch(word) or not math.isfinite(float(word)):
                    self._reject(f"{name} is a number; write it without quotes, such as 0.5 or -1e3", start)
                return float(word)
            case FieldKind.TIME:
                return self._time(name, word, start)
            case FieldKind.FLAG if not field.parse:
                if quoted or word not in ("true", "false"):
                    self._reject(f"{name} is a flag; write true or false, without quotes", start)
                return word == "true"
        try:
            return field.parse(word) if field.parse else word
        except InvalidRequest as error:
            self._reject(f"{name}: {_shortened(str(error), 5 * _EXCERPT)}", start)

    def _time(self, name: str, word: str, start: int) -> datetime:
        with suppress(ValueError, OverflowError):  # a 30th of February, or a time before year 1 in UTC
            if _TIME.fullmatch(word.upper()):
                return datetime.fromisoformat(word.upper()).astimezone(UTC)
        self._reject(
            f"{name} is a time; write it as in RFC 3339, with its zone, such as 2026-01-31T08:00:00Z", start
        )

    def _bare(self, name: str) -> tuple[str, bool]:
        """Consume an unquoted value; return it, and whether it begins or ends with a star."""
        start, word = self._at, self._take(_WORD)
        if word in _KEYWORDS:
            self._reject(f"expected a value, not {word}; put it in quotes to use it as a text", start)
        if not word:
            hints = {"(": f"; repeat {name} for each value, joined by OR", "=": "; write a single '='"}
            self._reject(f"expected a value, not {self._token(start)}{hints.get(self._peek(), '')}", start)
        return word, "*" in (word[0], word[-1])

    def _quoted(self) -> tuple[str, bool]:
        """Consume a quoted value; return it, and whether it begins or ends with an unescaped star."""
        start, quote, letters, stars = self._at, self._peek(), list[str](), set[int]()
        self._at += 1
        while (letter := self._peek()) != quote:
            if letter == "\\":
                self._at += 1
                letter = _ESCAPES.get(self._peek(), "")
                if not letter and self._peek():
                    self._reject(r"unknown escape; use \\ \" \' \* \n \r \t", self._at - 1)
            elif letter == "*":
                stars.add(len(letters))
            if not letter:
                self._reject(f"this text is not closed; add {quote}", start)
            letters.append(letter)
            self._at += 1
        self._at += 1
        return "".join(letters), bool(stars & {0, len(letters) - 1})

    def _peek(self) -> str:
        """Return the next character without consuming it, empty at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise AssertionError(f"{pattern} must also match an empty text; this is a bug")
        self._at = match.end()
        return match.group()

    def _skip_parenthesis(self) -> None:
        self._at += 1
        self._take(_SPACE)

    def _keyword(self, keyword: str) -> bool:
        """Consume a keyword if it comes next; return whether it did."""
        start = self._at
        if self._take(_NAME) != keyword:
            self._at = start
            return False
        self._take(_SPACE)
        return True

    def _token(self, at: int) -> str:
        """Return the token at a position as errors show it."""
        match = _TOKEN.match(self._text, at)
        return repr(_shortened(match.group(), _EXCERPT)) if match and match.group() else "the end"

    def _reject_name(self, name: str, at: int) -> NoReturn:
        if not name or name in _KEYWORDS:
            self._reject(f"expected a field, not {self._token(at)}", at)
        known, name = ", ".join(self._fields), _shortened(name, _EXCERPT)
        if name in _MISSPELLED:
            self._reject(f"expected a field, not {name!r}; the keyword is {_MISSPELLED[name]}", at)
        close = get_close_matches(name, self._fields, n=1)
        hint = f"did you mean {close[0]}? The fields are {known}" if close else f"use one of {known}"
        self._reject(f"there is no field {name!r}; {hint}", at)

    def _reject(self, cause: str, at: int | None = None) -> NoReturn:
        """Raise InvalidRequest with an excerpt of the filter and a caret under the position."""
        at = self._at if at is None else at
        start, end = max(0, at - _EXCERPT), at + _EXCERPT
        before, after = "…" if start else "", "…" if end < len(self._text) else ""
        line = "".join(letter if letter.isprintable() else " " for letter in self._text[start:end])
        caret = " " * (len(before) + at - start) + "^"
        raise InvalidRequest(
            f"column {at + 1}: {cause}\n  {before}{line}{after}\n  {caret}", field=self._field
        ) from None


def _depth(condition: Condition) -> int:
    match condition:
        case And(operands) | Or(operands):
            return 1 + max(map(_depth, operands), default=0)
        case Not(operand):
            return 1 + _depth(operand)
        case Comparison():
            return 0


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
