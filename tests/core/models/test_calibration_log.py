# SPDX-License-Identifier: Apache-2.0

import errno
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.manifests import make_manifest

from blemish_core.calibration import Calibration
from blemish_core.localization.settings import RegionSettings
from blemish_core.models.calibration_log import CalibrationChange, CalibrationLog, Revision, ThresholdRule
from blemish_core.platform.errors import (
    ConfirmationNeeded,
    Conflict,
    Corrupt,
    DiskFull,
    InvalidRequest,
    NotFound,
)

SCORES = [float(score) for score in range(1, 40)]
TRAINED = Calibration.of(SCORES, [10 * score for score in SCORES], 0.05)


def log_of(folder: Path, calibration: Calibration = TRAINED) -> CalibrationLog:
    manifest = make_manifest("m", 1, "made").model_copy(update={"calibration": calibration})
    return CalibrationLog(folder, manifest)


def fixed(threshold: float, author: str = "ann") -> CalibrationChange:
    return CalibrationChange(ThresholdRule.FIXED, author, threshold)


def test_revision_one_is_the_calibration_of_training(tmp_path: Path) -> None:
    newest = log_of(tmp_path).newest()
    assert (newest.number, newest.rule, newest.author) == (1, ThresholdRule.TRAINED, "jobs/made")
    assert newest.updated == datetime(2026, 1, 1, tzinfo=UTC)
    assert newest.calibration == TRAINED
    assert log_of(tmp_path).history(5) == [newest]
    assert list(tmp_path.iterdir()) == []


def test_change_applies_at_once_to_existing_readers(tmp_path: Path) -> None:
    reader, writer = log_of(tmp_path), log_of(tmp_path)
    assert reader.newest().number == 1
    for number in range(2, 30):  # faster than any file system's clock ticks
        writer.append(fixed(float(number)))
        assert reader.newest().number == number
        assert reader.newest().calibration.threshold == number
    assert log_of(tmp_path).newest() == reader.newest()


def test_unchanged_calibration_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(tmp_path)
    log.append(fixed(3.0))
    known = log.newest()

    def refuse(*_: object) -> None:
        raise AssertionError("read or listed again")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert log.newest() is known


def test_history_gives_author_time_comment_and_value(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    began = datetime.now(UTC)
    log.append(CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, "ann", 0.25, "too many escapes"))
    log.append(fixed(24.5, "bea"))
    log.append(CalibrationChange(ThresholdRule.TRAINED, "cem", comment="as it was"))
    history = log_of(tmp_path).history(100)
    assert [revision.number for revision in history] == [4, 3, 2, 1]
    assert [revision.author for revision in history] == ["cem", "bea", "ann", "jobs/made"]
    assert [revision.comment for revision in history] == ["as it was", "", "too many escapes", ""]
    assert [revision.calibration.threshold for revision in history] == [38.0, 24.5, 30.0, 38.0]
    assert history[2].calibration.target_false_reject_rate == 0.25
    assert history[0].calibration == TRAINED
    for revision in history[:3]:
        assert began <= revision.updated <= began + timedelta(minutes=1)
    assert [revision.number for revision in log.history(2)] == [4, 3]
    record = json.loads((tmp_path / "calibration" / "2.json").read_text())
    assert (record["rule"], record["value"], record["threshold"]) == ("false_reject_rate", 0.25, 30.0)


def test_change_of_an_outdated_revision_is_rejected(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append(fixed(3.0), expected=1)
    with pytest.raises(Conflict, match="at revision 2, not 1"):
        log.append(fixed(4.0), expected=1)
    assert log.newest().calibration.threshold == 3.0


def test_concurrent_writers_lose_no_change(tmp_path: Path) -> None:
    writers, each = 8, 10
    together = threading.Barrier(writers)

    def write(writer: int) -> list[int]:
        log = log_of(tmp_path)
        together.wait()
        return [log.append(fixed(float(writer), f"writer {writer}")).number for _ in range(each)]

    with ThreadPoolExecutor(writers) as pool:
        numbers = [number for own in pool.map(write, range(writers)) for number in own]
    assert sorted(numbers) == list(range(2, 2 + writers * each))
    authors = [revision.author for revision in log_of(tmp_path).history(1000)[:-1]]
    assert sorted(authors) == sorted(f"writer {writer}" for writer in range(writers) for _ in range(each))


def test_one_of_the_writers_that_expect_a_revision_succeeds(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def write(writer: int) -> bool:
        together.wait()
        try:
            log_of(tmp_path).append(fixed(float(writer)), expected=1)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1


def test_leftovers_of_a_crash_are_not_revisions(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append(fixed(3.0))
    (tmp_path / "calibration" / ".3.json.0123").write_text("{")
    (tmp_path / "calibration" / "notes.txt").write_text("mine")
    assert log_of(tmp_path).newest().number == 2
    assert log.append(fixed(4.0)).number == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: "{",
        lambda record: json.dumps(record | {"format": 2}),
        lambda record: json.dumps(record | {"rule": "whim"}),
        lambda record: json.dumps(record | {"value": None, "threshold": 3.0}),
        lambda record: json.dumps(record | {"author": ""}),
    ],
)
def test_damaged_revision_is_reported(tmp_path: Path, damage: Callable[[dict[str, object]], str]) -> None:
    log_of(tmp_path).append(fixed(3.0))
    file = tmp_path / "calibration" / "2.json"
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(Corrupt, match=r"2\.json"):
        log_of(tmp_path).newest()


def test_revision_of_another_version_is_reported(tmp_path: Path) -> None:
    log_of(tmp_path).append(CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, "ann", 0.1))
    other = Calibration.of([2 * score for score in SCORES], SCORES, 0.05)
    with pytest.raises(Corrupt, match="belongs to another version"):
        log_of(tmp_path, other).newest()


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = log_of(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFull, match="free some space"):
            log.append(fixed(3.0))
    assert log.newest().number == 1
    assert list((tmp_path / "calibration").iterdir()) == []


@pytest.mark.parametrize("author", ["", "  ", "x" * 101, "two\nlines", "\x1b[31mred"])
def test_author_must_be_one_printable_line(author: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        fixed(1.0, author)
    assert refusal.value.field == "author"


def test_comment_must_be_one_printable_line() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        CalibrationChange(ThresholdRule.TRAINED, "ann", comment="x" * 1001)
    assert refusal.value.field == "comment"
    assert (
        CalibrationChange(ThresholdRule.TRAINED, "Jörg Ångström 光", comment="wegen Öl").author
        == "Jörg Ångström 光"
    )


def test_change_of_regions_leaves_the_threshold_and_the_reverse(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    regions = RegionSettings(pixel_threshold=7.0, smallest_area=12.0, max_regions=3, mm_per_px=0.05)
    log.append(fixed(24.5))
    log.append(CalibrationChange(None, "ann", regions=regions))
    (both, _, _) = log_of(tmp_path).history(10)
    assert (both.rule, both.calibration.threshold) == (ThresholdRule.FIXED, 24.5)
    assert (both.calibration.regions, both.calibration.pixel_threshold) == (regions, 7.0)
    log.append(CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, "bea", 0.25))
    newest = log_of(tmp_path).newest()
    assert (newest.calibration.threshold, newest.calibration.regions) == (30.0, regions)
    log.append(CalibrationChange(ThresholdRule.TRAINED, "cem", regions=RegionSettings()))
    assert log_of(tmp_path).newest().calibration == TRAINED


def test_regions_out_of_range_change_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    with pytest.raises(InvalidRequest, match=r"regions\.max_regions"):
        log.append(CalibrationChange(None, "ann", regions=RegionSettings(max_regions=100)))
    assert log.newest().number == 1


def test_revision_of_an_older_server_has_default_regions(tmp_path: Path) -> None:
    log_of(tmp_path).append(fixed(24.5))
    file = tmp_path / "calibration" / "2.json"
    record = json.loads(file.read_text())
    del record["regions"]
    file.write_text(json.dumps(record))
    assert log_of(tmp_path).newest().calibration.regions == RegionSettings()


def test_revision_is_restored_with_its_regions_as_a_new_one(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    regions = RegionSettings(smallest_area=12.0)
    log.append(CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, "ann", 0.25, regions=regions))
    log.append(CalibrationChange(ThresholdRule.FIXED, "bea", 24.5, regions=RegionSettings()))
    back = log.append(CalibrationChange(None, "cem", revision=2))
    assert (back.number, back.rule, back.author) == (4, ThresholdRule.FALSE_REJECT_RATE, "cem")
    assert back.comment == "back to revision 2"
    assert back.calibration == log.at(2).calibration
    assert log_of(tmp_path).newest() == back
    assert log.append(CalibrationChange(None, "cem", comment="so", revision=1)).calibration == TRAINED
    for missing in (0, -1, 6, 1000):
        with pytest.raises(NotFound, match=f"has no revision {missing}; choose 1 to 5"):
            log.append(CalibrationChange(None, "cem", revision=missing))


def test_preview_and_a_rejected_change_store_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    assert log.preview(fixed(24.5)).calibration.threshold == 24.5

    def reject(revision: Revision) -> None:
        raise ConfirmationNeeded(f"{revision.calibration.threshold} is odd; choose another")

    with pytest.raises(ConfirmationNeeded, match=r"24\.5 is odd"):
        log.append(fixed(24.5), check=reject)
    assert log.newest().number == 1
