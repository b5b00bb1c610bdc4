# SPDX-License-Identifier: Apache-2.0
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.audit import NOON, make_entry

from blemish_core.platform.locks import LockHeld, process_lock
from blemish_server.audit.entry import AuditEntry, AuditFilter
from blemish_server.audit.log import AuditLog

ALL = AuditFilter()


def ids(entries: Sequence[AuditEntry]) -> list[str]:
    return [entry.id for entry in entries]


def every(log: AuditLog, size: int, wanted: AuditFilter = ALL) -> list[str]:
    """Return the ids of all pages."""
    found, position = log.page(wanted, size)
    while position is not None:
        entries, position = log.page(wanted, size, position)
        found += entries
    return ids(found)


def newest(folder: Path) -> Path:
    return sorted(folder.glob("audit-*.jsonl"))[-1]


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit")


def test_log_without_entries_has_an_empty_page(log: AuditLog) -> None:
    assert log.page(ALL, 10) == ([], None)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pages_cover_all_files_newest_first(tmp_path: Path, size: int) -> None:
    log = AuditLog(tmp_path, max_file_bytes=2000)
    for number in range(40):
        log.append([make_entry(str(number)).to_line()])
    assert len(list(tmp_path.glob("*.jsonl"))) > 3
    assert every(log, size) == [str(number) for number in reversed(range(40))]


def test_lines_longer_than_a_block_are_read(log: AuditLog) -> None:
    names = tuple(f"datasets/tile/train/good/{number:050}.png" for number in range(2000))
    for number in range(5):
        log.append([make_entry(str(number), resources=names[: 700 * number]).to_line()])
    assert every(log, 2) == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("torn", [b'{"id": "x", "sta', b"\0" * 5000, b"x" * (3 << 20)])
def test_entry_after_a_torn_line_begins_a_new_line(log: AuditLog, torn: bytes) -> None:
    log.append([make_entry("1").to_line()])
    with newest(log.folder).open("ab") as file:
        file.write(torn)
    assert every(log, 10) == ["1"]
    log.append([make_entry("2").to_line(), make_entry("3").to_line()])
    assert every(log, 10) == ["3", "2", "1"]


def test_entries_appended_between_pages_move_no_others(log: AuditLog) -> None:
    for number in range(4):
        log.append([make_entry(str(number)).to_line()])
    first, position = log.page(ALL, 2)
    log.append([make_entry("late").to_line()])
    second, _ = log.page(ALL, 2, position)
    assert ids([*first, *second]) == ["3", "2", "1", "0"]


def test_file_that_was_moved_away_is_left_out(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_file_bytes=1)
    for number in range(4):
        log.append([make_entry(str(number)).to_line()])
    _, position = log.page(ALL, 1)
    (tmp_path / "audit-000003.jsonl").unlink()
    entries, _ = log.page(ALL, 5, position)
    assert ids(entries) == ["1", "0"]


def test_filter_by_time_does_not_read_older_entries(log: AuditLog) -> None:
    old, recent = NOON - timedelta(days=9), NOON
    for time in (old, recent):
        log.append([make_entry(str(time.day), time=time, end_time=time).to_line()])
    entries, position = log.page(AuditFilter(start=NOON - timedelta(days=1)), 1000)
    assert (ids(entries), position) == (["1"], None)


def test_long_call_is_found_by_its_begin(log: AuditLog) -> None:
    begin = NOON - timedelta(days=2)
    log.append([make_entry("upload", time=begin, end_time=NOON).to_line()])
    assert every(log, 5, AuditFilter(start=begin, end=begin + timedelta(hours=1))) == ["upload"]


def test_filter_with_few_matches_ends_a_page_early(log: AuditLog) -> None:
    names = tuple(f"datasets/tile/{number:040}" for number in range(1000))
    log.append([make_entry("first", caller="mes").to_line()])
    for _ in range(3):
        log.append([make_entry("many", resources=names).to_line() for _ in range(80)])
    entries, position = log.page(AuditFilter(caller="mes"), 10)
    assert entries == [] and position is not None
    assert every(log, 10, AuditFilter(caller="mes")) == ["first"]


def test_several_processes_append_whole_lines(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.support.audit import make_entry\n"
        "from blemish_server.audit.log import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]), max_file_bytes=5000)\n"
        "for n in range(30): log.append([make_entry(f'{sys.argv[2]}-{n}').to_line()])\n"
    )
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), name], env=os.environ | {"PYTHONPATH": path}
        )
        for name in ("a", "b", "c")
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    found = every(AuditLog(tmp_path), 1000)
    for name in ("a", "b", "c"):
        assert [id for id in found if id[0] == name] == [f"{name}-{n}" for n in reversed(range(30))]


def test_entries_are_private(log: AuditLog) -> None:
    log.append([make_entry().to_line()])
    assert newest(log.folder).stat().st_mode & 0o777 == 0o600


def test_failed_append_leaves_no_part(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([make_entry("1").to_line()])
    before, write = newest(log.folder).read_bytes(), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 50:
            return write(descriptor, data)
        if len(data) > 150:
            return write(descriptor, bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log.append([make_entry("2").to_line()])
    assert newest(log.folder).read_bytes() == before
    log.append([make_entry("3").to_line()])
    assert every(log, 10) == ["3", "1"]


def test_append_gives_up_on_a_lock_that_stays_held(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([make_entry("1").to_line()])
    monkeypatch.setattr("blemish_server.audit.log._LOCK_WAIT_S", 0.1)
    with process_lock(log.folder / ".lock"), pytest.raises(LockHeld):
        log.append([make_entry("2").to_line()])
    assert every(log, 10) == ["1"]
