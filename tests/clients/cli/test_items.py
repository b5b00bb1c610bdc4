# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.choices import ItemLabelChoice, VerdictChoice
from blemish_client.cli.failures import Failure
from blemish_client.cli.items import item_condition, short_ids, stored_item

FIRST, CLOSE, OTHER = (
    "items/6f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52",
    "items/6f1c2b1e-8f0a-4b9e-9d53-0a4c1f1c7a52",
    "items/7f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52",
)


def test_short_ids_have_8_digits_or_as_many_as_make_them_unique() -> None:
    assert short_ids([Hit(item=FIRST), Hit(item=OTHER)]) == {FIRST: "6f1c2b1e", OTHER: "7f1c2b1e"}
    longer = short_ids(Hit(item=name) for name in (FIRST, OTHER, CLOSE, FIRST))
    assert longer == {FIRST: "6f1c2b1e-8f0a-4b7", CLOSE: "6f1c2b1e-8f0a-4b9", OTHER: "7f1c2b1e"}


def test_options_become_one_filter_after_the_condition() -> None:
    condition = item_condition(
        "score > 1 OR score < 0",
        cameras=['line "3"', "line-4"],
        since="2026-12-01T08:00Z",
        until="2026-12-02T08:00Z",
        verdict=VerdictChoice.ANOMALOUS,
        labels=[ItemLabelChoice.UNLABELLED, ItemLabelChoice.FALSE_ALARM, ItemLabelChoice.NONE],
        equal={"source": "camera"},
    )
    start, end = (datetime(2026, 12, day, 8, tzinfo=UTC).astimezone().isoformat() for day in (1, 2))
    assert condition == (
        r'score > 1 OR score < 0 AND (camera = "line \"3\"" OR camera = "line-4")'
        f" AND time >= {start} AND time < {end}"
        " AND verdict = anomalous AND (label = none OR label = false-alarm) AND source = camera"
    )
    assert item_condition(" ") == ""
    assert item_condition(labels=[ItemLabelChoice.UNLABELLED]) == "label = none"
    with pytest.raises(Failure, match="--since is 'soon'"):
        item_condition(since="soon")


def test_id_means_an_item_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored_item("6f1c2b1e") == "items/6f1c2b1e"
    assert stored_item("latest") == "items/latest"
    assert stored_item(FIRST) == FIRST
    assert stored_item("frame.png") is None
    assert stored_item("abc") is None
    (tmp_path / "cafe").touch()
    assert stored_item("cafe") is None
