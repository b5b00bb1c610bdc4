# SPDX-License-Identifier: Apache-2.0
"""The filter language: parsing, rejection of malformed filters, and evaluation by Qdrant."""

import operator
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from qdrant_client import QdrantClient, grpc
from qdrant_client import models as qm
from tests.support.qdrant_twin import in_memory_qdrant

from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.conditions import (
    ANY_ITEM,
    And,
    Comparison,
    Condition,
    Not,
    Operator,
    Or,
    Value,
    all_of,
    any_of,
    one_of,
)
from blemish_core.search.fields import SEARCH_FIELDS, FieldKind, FilterField
from blemish_core.search.filter_language import MAX_CHARACTERS, MAX_COMPARISONS, MAX_DEPTH, parse
from blemish_core.search.qdrant_filter import compile_filter

FIELDS = dict(SEARCH_FIELDS) | {
    "tags": FilterField(FieldKind.KEYWORDS, "tags"),
    "done": FilterField(FieldKind.FLAG, "done"),
    "place.line": FilterField(FieldKind.KEYWORD, "place_line"),
}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def parsed(text: str) -> Condition:
    return parse(text, FIELDS)


def rejection(text: str) -> str:
    with pytest.raises(InvalidRequest) as rejected:
        parsed(text)
    assert rejected.value.field == "where"
    return str(rejected.value)


def is_(key: str, value: Value | None, operator: Operator = "=") -> Comparison:
    return Comparison(key, operator, value)


CRACK, OIL, HIGH = is_("class_name", "crack"), is_("class_name", "oil"), is_("score", 0.8, ">")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("", ANY_ITEM),
        (" \n\t ", ANY_ITEM),
        ("class = crack", CRACK),
        ("class=crack", CRACK),
        (" ( ( class : 'crack' ) ) ", CRACK),
        ('class != "crack"', Not(CRACK)),
        ("NOT class = crack", Not(CRACK)),
        ("-class = crack", Not(CRACK)),
        ("NOT(class = crack)", Not(CRACK)),
        ("NOT class != crack", Not(Not(CRACK))),
        ("class = crack AND score > 0.8", And((CRACK, HIGH))),
        ("class = crack score > 0.8", And((CRACK, HIGH))),
        ("(class = crack)(score > 0.8)", And((CRACK, HIGH))),
        ("class = crack OR class = oil", Or((CRACK, OIL))),
        # OR binds tighter than AND, as in the AIP.
        ("score > 0.8 AND class = crack OR class = oil", And((HIGH, Or((CRACK, OIL))))),
        ("class = crack OR class = oil score > 0.8", And((Or((CRACK, OIL)), HIGH))),
        ("(score > 0.8 AND class = crack) OR class = oil", Or((And((HIGH, CRACK)), OIL))),
        # NOT binds tighter than OR.
        ("NOT class = crack OR class = oil", Or((Not(CRACK), OIL))),
        ("NOT (class = crack OR class = oil)", Not(Or((CRACK, OIL)))),
        ("-(class = crack score > 0.8)", Not(And((CRACK, HIGH)))),
        # Redundant parentheses leave no trace.
        ("(class = crack AND class = oil) score > 0.8", And((CRACK, OIL, HIGH))),
        ("class = crack OR (class = oil OR score > 0.8)", Or((CRACK, OIL, HIGH))),
    ],
)
def test_filter_text_is_parsed_to_a_tree(text: str, condition: Condition) -> None:
    assert parsed(text) == condition


@pytest.mark.parametrize(
    ("text", "comparison"),
    [
        ("score = 1", is_("score", 1.0)),
        ("score : 1", is_("score", 1.0)),
        ("score < -1.5e-3", is_("score", -0.0015, "<")),
        ("score<=.5", is_("score", 0.5, "<=")),
        ("p_value>=1E2", is_("p_value", 100.0, ">=")),
        ("dataset = datasets/tile", is_("dataset", "tile")),
        ("dataset = tile", is_("dataset", "tile")),
        ("verdict = NORMAL", is_("anomalous", False)),
        ("verdict = 'ANOMALOUS'", is_("anomalous", True)),
        ("model = models/tile/versions/3", is_("model_version", "models/tile/versions/3")),
        # Every spelling that tables, JSON and the contract use.
        ("model = tile/3", is_("model_version", "models/tile/versions/3")),
        ("verdict = anomalous", is_("anomalous", True)),
        ("verdict = Normal", is_("anomalous", False)),
        ("verdict = VERDICT_ANOMALOUS", is_("anomalous", True)),
        ("label = false-alarm", is_("label", "FALSE_ALARM")),
        ("label = 'false_alarm'", is_("label", "FALSE_ALARM")),
        ("label = LABEL_FALSE_ALARM", is_("label", "FALSE_ALARM")),
        ("label = confirmed", is_("label", "CONFIRMED")),
        ("label = good", is_("label", "GOOD")),
        ("label = none", is_("label", None)),
        ("source = camera", is_("source", "camera")),
        ("label = FALSE_ALARM", is_("label", "FALSE_ALARM")),
        ("label = NONE", is_("label", None)),
        ("label_class = NONE", is_("label_class", "NONE")),
        ("done = true", is_("done", True)),
        ("done : false", is_("done", False)),
        ("category = true", is_("category", "true")),
        ("camera = 7", is_("camera", "7")),
        ("camera = line:7", is_("camera", "line:7")),
        ("camera = -7", is_("camera", "-7")),
        ("tags : wet", is_("tags", "wet")),
        ("place.line = 4", is_("place_line", "4")),
        ("class = 'AND'", is_("class_name", "AND")),
        ("class = ''", is_("class_name", "")),
        ("class = 'a ) OR ('", is_("class_name", "a ) OR (")),
        (r"""class = "it's \"so\" \\ \n" """, is_("class_name", 'it\'s "so" \\ \n')),
        (r"class = '\*.png'", is_("class_name", "*.png")),
        ("class = a*b", is_("class_name", "a*b")),
        ("class = ölig", is_("class_name", "ölig")),
        ("time > 2026-01-31T12:00:00Z", is_("time", NOON, ">")),
        ("time > '2026-01-31T13:30:00+01:30'", is_("time", NOON, ">")),
        ("time > '2026-01-31 13:00:00+01:00'", is_("time", NOON, ">")),
        ("time = 2026-01-31t12:00:00.25z", is_("time", NOON + timedelta(seconds=0.25))),
    ],
)
def test_values_are_parsed_to_stored_ones(text: str, comparison: Comparison) -> None:
    assert parsed(text) == comparison


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("class = crack AND", 18, "expected a field, not the end"),
        ("AND class = crack", 1, "expected a field, not 'AND'"),
        ("class = crack OR OR class = oil", 18, "expected a field, not 'OR'"),
        ("NOT NOT class = crack", 5, "expected a field, not 'NOT'"),
        ("- class = crack", 2, "expected a field, not ' '"),
        ("'class' = crack", 1, "expected a field, not \"'class'\""),
        ("()", 2, "expected a field, not ')'"),
        ("class = a and class = b", 11, "not 'and'; the keyword is AND"),
        ("class = a || class = b", 11, "not '||'; the keyword is OR"),
        ("(class = a", 1, "this '(' is not closed; add ')'"),
        ("class = a) class = b", 10, "this ')' has no '('; remove it"),
        ("class = 'a", 9, "this text is not closed; add '"),
        ("class = 'a\\", 9, "this text is not closed; add '"),
        (r"class = 'C:\data'", 12, "unknown escape"),
        ("class", 6, "expected an operator, not the end; class is a text, compared with = != :"),
        ("class(crack)", 6, "expected an operator, not '('"),
        ("class ~ crack", 7, "expected an operator, not '~'"),
        ("class = ", 9, "expected a value, not the end"),
        ("class == a", 8, "expected a value, not '='; write a single '='"),
        ("class = (a OR b)", 9, "not '('; repeat class for each value, joined by OR"),
        ("class = AND score > 1", 9, "expected a value, not AND; put it in quotes to use it as a text"),
        ("class = a=b", 10, "expected a space after the value, not '='"),
        ("class = 'it's'", 13, "expected a space after the value, not 's'"),
        ("class = cr*", 9, r"wildcards are not supported; write the whole value, or '\*' in quotes"),
        ("class = '*ck'", 9, "wildcards are not supported"),
        ("class : *", 9, "wildcards are not supported"),
        (
            "klass = a",
            1,
            "there is no field 'klass'; did you mean class? The fields are dataset, category, class,",
        ),
        ("crack", 1, "there is no field 'crack'; "),
        ("place = 4", 1, "there is no field 'place'; "),
        ("xyz = 1", 1, "there is no field 'xyz'; use one of dataset, category, class, verdict, model, "),
        ("class < a", 7, "class has no operator <; class is a text, compared with = != :"),
        (
            "verdict >= NORMAL",
            9,
            "verdict has no operator >=; verdict is one of two values, compared with = != :",
        ),
        ("tags = wet", 6, "tags has no operator =; tags is a list of texts, compared with :"),
        ("score > high", 9, "score is a number; write it without quotes, such as 0.5 or -1e3"),
        ("score > '1'", 9, "score is a number; write it without quotes"),
        ("score > NaN", 9, "score is a number"),
        ("score > -inf", 9, "score is a number"),
        ("score > 1e999", 9, "score is a number"),
        ("score > 1_0", 9, "score is a number"),
        ("score > \u0663", 9, "score is a number"),
        ("done = yes", 8, "done is a flag; write true or false, without quotes"),
        ("done = 'true'", 8, "done is a flag; write true or false, without quotes"),
        ("verdict = BAD", 11, "verdict: 'BAD' is not a valid value; use normal, anomalous"),
        ("label = bad", 9, "label: 'bad' is not a valid value; use confirmed, false-alarm, good, none"),
        ("dataset = datasets/../etc", 11, "dataset: 'datasets/../etc' is not a name in datasets/"),
        ("model = models/tile", 9, "write models/tile/versions/N"),
        (
            "time > yesterday",
            8,
            "time is a time; write it as in RFC 3339, with its zone, such as 2026-01-31T08:00:00Z",
        ),
        ("time > 2026-01-31", 8, "time is a time; write it as in RFC 3339"),
        ("time > 2026-01-31T12:00:00", 8, "with its zone"),
        ("time > 2026-02-30T12:00:00Z", 8, "time is a time; write it as in RFC 3339"),
        ("time > 0001-01-01T00:00:00+01:00", 8, "time is a time; write it as in RFC 3339"),
    ],
)
def test_rejection_names_the_column_and_a_remedy(text: str, column: int, message: str) -> None:
    first, excerpt, caret = rejection(text).split("\n")
    assert first.startswith(f"column {column}: ")
    assert message in first
    assert excerpt == f"  {text}"
    assert caret == " " * (column + 1) + "^"


def test_rejection_of_long_filter_shows_an_excerpt_around_the_caret() -> None:
    text = "class = a\nOR " * 20 + "clas = b" + " OR class = 'c'" * 20
    _, excerpt, caret = rejection(text).split("\n")
    assert excerpt.startswith("  …") and excerpt.endswith("…")
    assert excerpt[caret.index("^") :].startswith("clas = b")


def test_rejections_fit_into_a_header() -> None:
    for text in (
        "x" * 4000 + " = 1",
        "dataset = " + "X" * 4000,
        "class = a" + "'" * 4000,
        "class ^" + "^" * 4000,
    ):
        assert len(rejection(text)) < 500


def test_filters_over_a_limit_are_rejected() -> None:
    assert len(parsed(" OR ".join(["class = a"] * MAX_COMPARISONS)).operands) == MAX_COMPARISONS  # type: ignore[union-attr]
    assert f"more than {MAX_COMPARISONS} comparisons" in rejection(
        " ".join(["class=a"] * (MAX_COMPARISONS + 1))
    )
    assert parsed("class = crack" + " " * (MAX_CHARACTERS - 13)) == CRACK
    assert f"has {MAX_CHARACTERS + 1} characters; shorten it to {MAX_CHARACTERS}" in rejection(
        " " * (MAX_CHARACTERS + 1)
    )
    assert parsed("(" * MAX_DEPTH + "class = crack" + ")" * MAX_DEPTH) == CRACK
    assert f"nested more than {MAX_DEPTH} deep" in rejection("(" * (MAX_DEPTH + 1))
    assert "characters" in rejection("(" * 100_000)


def nested(levels: int) -> str:
    """Return a filter whose tree has this many levels, with about half as many parentheses."""
    text = "class = crack"
    for level in range(levels):
        text = f"{text} score > 0.8" if level % 2 else f"class = oil OR ({text})"
    return text


def test_deepest_filter_fits_into_a_protobuf_message() -> None:
    deepest = compile_filter(parsed(nested(MAX_DEPTH)))
    assert deepest is not None
    request = grpc.QueryPoints(filter=deepest)
    assert grpc.QueryPoints.FromString(request.SerializeToString()) == request
    assert f"alternate over more than {MAX_DEPTH} levels" in rejection(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "text",
    [
        "score > " + "1" * 4000 + "x",
        "time > " + "2026-01-31T" * 360,
        "class = " + "a" * 4000 + ",",
        " " * 4000 + "&",
    ],
)
def test_parsing_takes_linear_time(text: str) -> None:
    start = time.perf_counter()
    rejection(text)
    assert time.perf_counter() - start < 0.5


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"SEED={seed}")  # pytest shows it where a test fails
    return random.Random(seed)


def test_random_text_is_parsed_or_rejected(rng: random.Random) -> None:
    pieces = [
        *FIELDS,
        *"()-.:=<>!,*'\"\\ \n\0\xa0é😀",
        "AND",
        "OR",
        "NOT",
        " ",
        " ",
        "<=",
        "!=",
        "1e5",
        "-1",
        "nan",
    ]
    pieces += ["true", "GOOD", "datasets/x", "models/x/versions/1", "2026-01-31T12:00:00Z", "class = a "]
    accepted = 0
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 20)))
        try:
            compile_filter(parsed(text))
            accepted += 1
        except InvalidRequest as rejected:
            assert re.match(r"column \d+: .+\n  .*\n +\^$", str(rejected)), repr(text)
    for _ in range(2_000):
        text = "".join(chr(rng.randrange(rng.choice((128, 0x3000)))) for _ in range(rng.randrange(40)))
        with suppress(InvalidRequest):
            parsed(text)
    assert accepted > 20


MOMENTS = [NOON + timedelta(hours=hour) for hour in range(5)]
STORED: dict[str, tuple[str, list[Any]]] = {
    "dataset": ("dataset", ["tile", "grid"]),
    "class": (
        "class_name",
        ["good", "crack", "oil spill", 'a "quote"', "it's", "back\\slash\n", "*", "OR", ""],
    ),
    "verdict": ("anomalous", [True, False]),
    "score": ("score", [-1.5, 0.0, 0.25, 1e-7, 3.0]),
    "time": ("time", MOMENTS),
    "label": ("label", ["CONFIRMED", "FALSE_ALARM", "GOOD", None]),
    "tags": ("tags", ["wet", "new", "old"]),
    "done": ("done", [True, False]),
}
NAMES = {key: name for name, (key, _) in STORED.items()}


def random_condition(rng: random.Random, depth: int = 3, within: type | None = None) -> Condition:
    kinds = [kind for kind in (And, Or, Not, Comparison) if kind is not within]
    match rng.choice(kinds) if depth else Comparison:
        case kind if kind is And or kind is Or:
            parts = [random_condition(rng, depth - 1, kind) for _ in range(rng.randrange(2, 4))]
            return kind(tuple(parts))
        case kind if kind is Not:
            return Not(random_condition(rng, depth - 1))
    name, (key, values) = rng.choice(list(STORED.items()))
    orders: list[Operator] = ["=", "<", "<=", ">", ">="]
    return Comparison(key, rng.choice(orders) if name in ("score", "time") else "=", rng.choice(values))


def written(condition: Condition, rng: random.Random) -> str:
    """Return one of the many texts that are parsed to a condition."""
    space = rng.choice(("", " ", "  "))
    match condition:
        case Comparison(key, operator, value):
            text = (
                NAMES[key]
                + space
                + written_operator(key, operator, rng)
                + space
                + written_value(key, value, rng)
            )
        case Not(Comparison(key, "=", value)) if key != "tags" and rng.random() < 0.3:
            text = f"{NAMES[key]}{space}!={space}{written_value(key, value, rng)}"
        case Not(part):
            text = rng.choice(("NOT ", "-")) + in_parentheses(part, rng, (And, Or, Not))
        case Or(parts):
            text = " OR ".join(in_parentheses(part, rng, (And,)) for part in parts)
        case And(parts):
            text = in_parentheses(parts[0], rng, ())
            for part in parts[1:]:
                text += rng.choice((" ", " AND ", "\n")) + in_parentheses(part, rng, ())
    return text


def in_parentheses(condition: Condition, rng: random.Random, where_needed: tuple[type, ...]) -> str:
    text, space = written(condition, rng), rng.choice(("", " "))
    needed = isinstance(condition, where_needed) or rng.random() < 0.1
    return f"({space}{text}{space})" if needed else text


def written_operator(key: str, operator: Operator, rng: random.Random) -> str:
    if operator == "=":
        return ":" if key == "tags" else rng.choice(("=", ":"))
    return operator


def written_value(key: str, value: Value | None, rng: random.Random) -> str:
    match value:
        case None:
            return "NONE"
        case bool() if key == "anomalous":
            return "ANOMALOUS" if value else "NORMAL"
        case bool():
            return str(value).lower()
        case float():
            return rng.choice((repr(value), f"{value:e}"))
        case datetime():
            return rng.choice((value.isoformat(), f"'{value.isoformat().replace('+00:00', 'Z')}'"))
    if value.isalpha() and value != "OR" and rng.random() < 0.5:
        return value
    quote = rng.choice("'\"")
    escaped = (
        value.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("*", "\\*").replace("\n", "\\n")
    )
    return quote + escaped + quote


def test_written_tree_is_parsed_back(rng: random.Random) -> None:
    for _ in range(1_000):
        condition = random_condition(rng)
        text = written(condition, rng)
        assert parsed(text) == condition, text


ORDER = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def holds(condition: Condition, payload: dict[str, Any]) -> bool:
    """Return whether a payload fits, by the definition of the tree."""
    match condition:
        case And(parts):
            return all(holds(part, payload) for part in parts)
        case Or(parts):
            return any(holds(part, payload) for part in parts)
        case Not(part):
            return not holds(part, payload)
        case Comparison(key, compare, value):
            there = payload.get(key)
            values = there if isinstance(there, list) else [] if there is None else [there]
            if value is None:
                return not values
            return any(ORDER[compare](each, value) for each in values)


@pytest.fixture(scope="module")
def client() -> Iterator[QdrantClient]:
    client = in_memory_qdrant()
    client.create_collection("items", vectors_config=qm.VectorParams(size=2, distance=qm.Distance.DOT))
    yield client
    client.close()


def test_qdrant_selects_the_items_that_fit(client: QdrantClient, rng: random.Random) -> None:
    payloads: list[dict[str, Any]] = []
    for _ in range(200):
        payload = {key: rng.choice(values) for key, values in STORED.values() if rng.random() < 0.8}
        if "tags" in payload:
            payload["tags"] = rng.sample(STORED["tags"][1], rng.randrange(3))
        payloads.append(payload)
    client.upsert(
        "items",
        [
            qm.PointStruct(id=number, vector=[1, 0], payload=as_json(payload))
            for number, payload in enumerate(payloads)
        ],
    )
    partial = 0
    for _ in range(200):
        condition = random_condition(rng)
        meant = [number for number, payload in enumerate(payloads) if holds(condition, payload)]
        points, _ = client.scroll("items", scroll_filter=compile_filter(condition), limit=1_000)
        assert sorted(int(point.id) for point in points) == meant, condition
        partial += 0 < len(meant) < len(payloads)
    assert partial > 100
    assert compile_filter(ANY_ITEM) is None


def as_json(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: each.isoformat() if isinstance(each, datetime) else each for key, each in payload.items()}


@pytest.mark.parametrize(
    "text", ["class != crack", "NOT class = crack", "-class = crack", "score != 1", "-score > 1"]
)
def test_negation_selects_items_without_the_field(client: QdrantClient, text: str) -> None:
    client.upsert("items", [qm.PointStruct(id=1000, vector=[1, 0], payload={"dataset": "bare"})])
    points, _ = client.scroll("items", scroll_filter=compile_filter(parsed(f"dataset = bare {text}")))
    assert [point.id for point in points] == [1000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("verdict = ANOMALOUS", grpc.Match(boolean=True)),
        ("verdict = NORMAL", grpc.Match(boolean=False)),
        ("class = crack", grpc.Match(keyword="crack")),
    ],
)
def test_flags_and_texts_keep_their_type_in_the_message(text: str, expected: grpc.Match) -> None:
    compiled = compile_filter(parsed(text))
    assert compiled is not None
    assert compiled.must[0].field.match == expected


def test_values_of_one_keyword_field_compile_to_one_match() -> None:
    both = one_of("class_name", ["crack", "oil"])
    compiled = compile_filter(all_of([both, ANY_ITEM, one_of("dataset", ["tile"])]))
    assert compiled is not None
    first, second = (condition.field for condition in compiled.must)
    assert (first.key, [*first.match.keywords.strings]) == ("class_name", ["crack", "oil"])
    assert (second.key, second.match.keyword) == ("dataset", "tile")
    assert compile_filter(both) == compile_filter(parsed("class = crack OR class = oil"))
    assert compile_filter(Not(both)) == compile_filter(parsed("NOT (class = crack OR class = oil)"))


def test_values_of_different_fields_compile_to_alternatives() -> None:
    compiled = compile_filter(any_of([CRACK, is_("category", "tile")]))
    assert compiled is not None
    assert [condition.field.key for condition in compiled.should] == ["class_name", "category"]
