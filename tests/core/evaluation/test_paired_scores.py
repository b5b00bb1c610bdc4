# SPDX-License-Identifier: Apache-2.0
"""Two evaluations are compared on the images that both have scored."""

from pathlib import Path

import pytest

from blemish_core.evaluation.paired_scores import StoredRow, pair, read_rows


def row(path: str, score: float, sha256: str = "") -> StoredRow:
    return StoredRow(path, path.split("/")[1], score, "", sha256)


def rows(good: list[float], defective: list[float]) -> list[StoredRow]:
    return [row(f"test/good/{number:03}.png", score) for number, score in enumerate(good)] + [
        row(f"test/dent/{number:03}.png", score) for number, score in enumerate(defective)
    ]


def test_detector_that_finds_more_has_a_difference_above_zero() -> None:
    paired = pair(rows([1.0] * 30, [1.5, 3.0] * 20), rows([1.0] * 30, [3.0] * 40), (2.0, 2.0))
    found = {each.name: each for each in paired.differences()}
    detected = found["detection_rate"]
    assert (detected.first.value, detected.second.value, detected.difference.value) == (0.5, 1.0, 0.5)
    assert detected.difference.interval is not None
    assert 0.3 < detected.difference.interval.low < 0.5 < detected.difference.interval.high < 0.7
    only = paired.only_above(1, good=False)
    assert [image.path for image in only][:2] == ["test/dent/000.png", "test/dent/002.png"]
    assert (len(only), paired.only_above(0, good=False)) == (20, [])


def test_pairing_narrows_the_interval_of_the_difference() -> None:
    first = [1 + number / 50 for number in range(50)]
    second = [score + 0.001 for score in first]
    paired = pair(rows(first, [1.9, 2.5] * 20), rows(second, [1.9, 2.5] * 20), (1.5, 1.5))
    auroc = next(each for each in paired.differences() if each.name == "image_auroc")
    assert auroc.first.interval is not None
    assert auroc.difference.interval is not None
    own = auroc.first.interval.high - auroc.first.interval.low
    assert auroc.difference.interval.high - auroc.difference.interval.low < own / 4


def test_equal_verdicts_leave_room_for_a_difference_on_other_images() -> None:
    paired = pair(rows([1.0] * 10, [3.0] * 10), rows([1.0] * 10, [3.0] * 10), (2.0, 2.0))
    found = {each.name: each.difference for each in paired.differences()}
    rejected = found["false_reject_rate"]
    assert rejected.value == 0
    assert rejected.interval is not None
    assert rejected.interval.low == pytest.approx(-0.308, abs=0.001)
    assert rejected.interval.high == pytest.approx(0.308, abs=0.001)


def test_images_are_paired_by_content_and_class() -> None:
    first = [row("test/good/a.png", 1.0, "aa"), row("test/dent/b.png", 3.0, "bb")]
    second = [row("test/good/renamed.png", 2.5, "aa"), row("test/dent/b.png", 1.0, "other")]
    paired = pair(first, second, (2.0, 2.0))
    (image,) = paired.images
    assert (image.path, image.scores) == ("test/good/a.png", (1.0, 2.5))
    assert paired.left_out == 2
    assert paired.only_above(1, good=True) == [image]
    assert [each.name for each in paired.differences()] == ["false_reject_rate"]


def test_rates_have_the_p_value_of_the_images_that_only_one_detector_rejects() -> None:
    paired = pair(rows([1.0] * 9 + [3.0], [1.0] * 6), rows([1.0] * 10, [3.0] * 6), (2.0, 2.0))
    found = {each.name: each.p_value for each in paired.differences()}
    assert found["detection_rate"] == pytest.approx(2 / 2**6)
    assert found["false_reject_rate"] == 1
    assert found["image_auroc"] is None


def test_p_value_is_one_without_different_verdicts() -> None:
    paired = pair(rows([1.0], [3.0] * 2), rows([1.0], [3.0] * 2), (2.0, 2.0))
    assert {each.p_value for each in paired.differences() if each.name != "image_auroc"} == {1.0}


def test_each_defect_class_has_its_detection_rates() -> None:
    first = [row("test/good/0.png", 3.0), row("test/oil/0.png", 3.0), row("test/dent/0.png", 1.0)]
    second = [row("test/good/0.png", 1.0), row("test/oil/0.png", 3.0), row("test/dent/0.png", 3.0)]
    dent, oil = pair(first, second, (2.0, 2.0)).classes()
    assert (dent.class_name, dent.images) == ("dent", 1)
    assert (dent.detection.first.value, dent.detection.second.value) == (0.0, 1.0)
    assert dent.detection.difference.value == 1
    assert (oil.class_name, oil.detection.difference.value) == ("oil", 0)
    assert oil.detection.first.interval is not None
    assert oil.detection.first.interval.low == pytest.approx(0.025)


def test_tables_of_older_versions_are_paired_by_path(tmp_path: Path) -> None:
    assert read_rows(tmp_path) is None
    (tmp_path / "scores.csv").write_text("path,class,score,p_value\ntest/good/0.png,good,1.5,0.1\n")
    (old,) = read_rows(tmp_path) or []
    assert (old.path, old.score, old.sha256) == ("test/good/0.png", 1.5, "")
    paired = pair([old], [row("test/good/0.png", 2.0, "aa")], (1.0, 1.0))
    assert len(paired.images) == 1
    (tmp_path / "scores.csv").write_text("path,class,score\ntest/good/0.png,good,nan\n")
    assert read_rows(tmp_path) is None
