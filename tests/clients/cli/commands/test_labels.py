# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD, LABEL_NONE


def labelled(fake: FakeServer) -> list[tuple[str, int, str]]:
    return [(each.item, each.label, each.label_class) for each in fake.requests["LabelItem"]]


def test_one_item_is_labelled_in_the_former_order(run: Run, fake: FakeServer) -> None:
    result = run("label", "items/6f1c2b1e", "false-alarm", "-m", "m")
    assert (result.exit_code, result.stdout) == (0, "6f1c2b1e: false-alarm\n")
    assert labelled(fake) == [("items/6f1c2b1e", LABEL_FALSE_ALARM, "")]


def test_many_items_get_one_label(run: Run, fake: FakeServer) -> None:
    result = run("label", "6f1c2b1e", "7a90", "6f1c2b1e", "confirmed", "--class", "hairline", "-m", "m")
    assert result.exit_code == 0, result.stderr
    assert labelled(fake) == [(f"items/{id}", LABEL_CONFIRMED, "hairline") for id in ("6f1c2b1e", "7a90")]
    assert "7a90: confirmed hairline" in result.stdout
    assert "labelled 2 of 2 items" in result.stderr


def test_items_of_a_filter_are_labelled(run: Run, fake: FakeServer) -> None:
    command = ("label", "good", "-m", "m", "--camera", "line-3", "--label", "unlabelled", "--json")
    assert [line["label"] for line in json_lines(run(*command))] == ["good"] * 3
    assert fake.requests["ListItems"][0].where == 'camera = "line-3" AND label = none'
    assert labelled(fake) == [(f"items/{number}", LABEL_GOOD, "") for number in (1, 2, 3)]


@pytest.mark.parametrize("separator", [",", ";"])
def test_items_of_a_file_are_labelled(run: Run, fake: FakeServer, tmp_path: Path, separator: str) -> None:
    rows = [
        "Item,Label,Class",
        "6f1c2b1e,confirmed,hairline",
        "7a90,FALSE_ALARM,",
        "8b,,",
        "9c01,none,",
    ]
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(rows).replace(",", separator), "utf-8-sig")
    assert run("label", "--file", file, "-m", "m").exit_code == 0
    expected = [
        ("items/6f1c2b1e", LABEL_CONFIRMED, "hairline"),
        ("items/7a90", LABEL_FALSE_ALARM, ""),
        ("items/9c01", LABEL_NONE, ""),
    ]
    assert labelled(fake) == expected
    text = "\n".join(rows)
    assert run("label", "--file", "-", "-m", "m", stdin=text).exit_code == 0
    assert labelled(fake) == 2 * expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("item,verdict\n1,good", "lacks the columns item and label"),
        ("", "lacks the columns"),
        ("item,label\n6f1c2b1e,good\n7a90,bad", "the label in line 3 of"),
        ("item,label,class\n6f1c2b1e,good,scratch", "line 2 of"),
        ("item,label\n,good", "names no item"),
    ],
)
def test_file_with_a_fault_labels_nothing(
    run: Run, fake: FakeServer, tmp_path: Path, rows: str, words: str
) -> None:
    (tmp_path / "labels.csv").write_text(rows)
    result = run("label", "--file", tmp_path / "labels.csv", "-m", "m")
    assert result.exit_code == 2
    assert words in result.stderr
    assert not fake.requests["LabelItem"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a label is missing"),
        (("6f1c2b1e",), "the last argument is '6f1c2b1e', not a label"),
        (("good",), "either by their ids or by a filter"),
        (("6f1c2b1e", "good", "--since", "8h"), "either by their ids or by a filter"),
        (("6f1c2b1e", "good", "--class", "scratch"), "a class fits confirmed defects alone"),
        (("good", "--file", "labels.csv"), "--file names items and labels itself"),
        (("--file", "/nonexistent.csv"), "cannot read /nonexistent.csv"),
    ],
)
def test_label_without_meaning_is_a_usage_error(
    run: Run, fake: FakeServer, arguments: tuple[str, ...], words: str
) -> None:
    result = run("label", *arguments, "-m", "m")
    assert result.exit_code == 2
    assert words in result.stderr
    assert not fake.requests["LabelItem"]


def test_unknown_item_does_not_stop_the_others(run: Run, fake: FakeServer) -> None:
    gone = CallError(grpc.StatusCode.NOT_FOUND, "the index has no item")
    fake.errors["LabelItem"] = [gone]
    result = run("label", "6f1c2b1e", "7a90", "good", "-m", "m")
    assert result.exit_code == 7
    assert "6f1c2b1e: the index has no item" in result.stderr
    assert "labelled 1 of 2 items" in result.stderr
    assert "7a90: good" in result.stdout
    fake.errors["LabelItem"] = [gone, gone]
    assert run("label", "6f1c2b1e", "7a90", "good", "-m", "m").exit_code == 3


def test_summary_counts_kept_frames(run: Run, fake: FakeServer) -> None:
    for item, camera in zip(fake.hits, ("line-3", "line-3", "line-4"), strict=True):
        item.camera = camera
    fake.hits[0].label, fake.hits[0].label_class = LABEL_CONFIRMED, "hairline"
    command = ("summary", "-m", "m", "--since", "2026-12-01T08:00Z")
    (counts,) = json_lines(run(*command, "--json"))
    assert fake.requests["ListItems"][0].where.endswith(" AND source = camera")
    assert counts["frames"] == 3
    assert counts["verdicts"] == {"anomalous": 2, "normal": 1}
    assert counts["labels"] == {"confirmed": 1, "unlabelled": 2}
    assert counts["classes"] == {"hairline": 1}
    assert counts["unlabelled_anomalous"] == 1
    assert {name: each["frames"] for name, each in counts["cameras"].items()} == {"line-3": 2, "line-4": 1}
    shown = run(*command).stdout
    assert "3 kept frames, 2 anomalous, 1 of these unlabelled" in shown
    (row,) = (line for line in shown.splitlines() if "line-3" in line)
    assert row.split() == ["line-3", "2", "0", "2", "1", "0", "0", "1"]
    assert "hairline" in shown


def test_summary_of_an_empty_shift(run: Run, fake: FakeServer) -> None:
    fake.hits.clear()
    assert "0 kept frames, 0 anomalous" in run("summary", "-m", "m").stdout
