# SPDX-License-Identifier: Apache-2.0
import errno
from pathlib import Path

import pytest

from blemish_core.platform.disk import DiskSpace, StoreDisk
from blemish_core.platform.errors import DiskFull, JobCancelled
from blemish_core.platform.files import (
    atomic_create,
    atomic_write,
    disk_full_errors,
    is_staged,
    publish_directory,
    staged_directory,
    staged_file,
)


def test_atomic_write_replaces_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    atomic_write(file, b"old")
    atomic_write(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_create_keeps_an_existing_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    atomic_create(file, b"first")
    with pytest.raises(FileExistsError):
        atomic_create(file, b"second")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    atomic_write(file, b"old")
    with pytest.raises(RuntimeError), staged_file(file) as staged:
        assert is_staged(staged, file)
        assert not is_staged(file, file)
        staged.write_bytes(b"half")
        raise RuntimeError
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_published_directory_appears_only_after_commit(tmp_path: Path) -> None:
    target = tmp_path / "1"
    seen = []
    with staged_directory(tmp_path / ".staging") as staging:
        (staging / "file").write_text("content")
        assert publish_directory(staging, target, lambda: seen.append(target.exists()))
    assert seen == [False]
    assert (target / "file").read_text() == "content"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_commit_publishes_nothing(tmp_path: Path) -> None:
    def refuse() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError), staged_directory(tmp_path / ".staging") as staging:
        publish_directory(staging, tmp_path / "1", refuse)
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "1"
    target.mkdir()
    (target / "file").write_text("first")
    with staged_directory(tmp_path / ".staging") as staging:
        (staging / "file").write_text("second")
        assert not publish_directory(staging, target)
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_missing_space_is_reported_as_full_disk(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFull, match="BLEMISH_STORE"), disk_full_errors(tmp_path):
        raise OSError(number, "no space")


def test_other_errors_are_not_reported_as_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_full_errors(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize("free_bytes", [1000, 1 << 30])
def test_failed_stream_of_a_library_is_about_the_disk_if_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int
) -> None:
    monkeypatch.setattr(StoreDisk, "space", lambda self: DiskSpace(free_bytes, 1 << 40))
    expected = DiskFull if free_bytes == 1000 else RuntimeError
    with pytest.raises(expected), disk_full_errors(tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")


def test_errors_for_the_caller_are_kept_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreDisk, "space", lambda self: DiskSpace(0, 1 << 40))
    with pytest.raises(JobCancelled), disk_full_errors(tmp_path):
        raise JobCancelled("jobs/1 was cancelled")
