# SPDX-License-Identifier: Apache-2.0
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from blemish_core.platform.errors import DiskFull
from blemish_core.platform.files import (
    atomic_create,
    atomic_write,
    disk_full_errors,
    is_staged,
    publish_directory,
    read_below,
    read_regular,
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


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Return entries of a file system that are not regular files."""
    fifo, link, folder = tmp_path / "fifo", tmp_path / "circle", tmp_path / "folder"
    os.mkfifo(fifo)
    link.symlink_to(link)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        yield {
            "FIFO": fifo,
            "circular link": link,
            "folder": folder,
            "socket": tmp_path / "socket",
            "device": Path("/dev/zero"),
        }


@pytest.mark.parametrize("kind", ["FIFO", "circular link", "folder", "socket", "device"])
def test_only_regular_files_are_read(special: dict[str, Path], kind: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        read_regular(special[kind], 10)


def test_file_longer_than_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(11))
    with pytest.raises(OSError, match="11 bytes, more than the 10 allowed"):
        read_regular(file, 10)
    with pytest.raises(OSError, match="more than the 10 allowed"):
        read_below(tmp_path, PurePath("a"), 10)
    assert read_regular(file, 11) == bytes(11)
    # Files of the kernel have no size.
    with pytest.raises(OSError, match="more than the 10 allowed"):
        read_regular(Path("/proc/self/status"), 10)


def test_file_below_a_folder_is_read_without_following_links(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    (root / "train" / "good").mkdir(parents=True)
    (root / "train" / "good" / "a").write_bytes(b"image")
    secret.mkdir()
    (secret / "a").write_bytes(b"secret")
    (root / "out").symlink_to(secret)
    (root / "train" / "good" / "b").symlink_to(secret / "a")
    assert read_below(root, PurePath("train/good/a"), 10) == b"image"
    for path in ("out/a", "train/good/b"):
        with pytest.raises(OSError):
            read_below(root, PurePath(path), 10)
    for path in ("../secret/a", "/etc/passwd", "train/../../secret/a", ""):
        with pytest.raises(ValueError, match="is not a path below"):
            read_below(root, PurePath(path), 10**6)


def test_file_that_changes_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(100))
    read, shorten = os.read, iter([True])

    def read_and_shorten(descriptor: int, size: int) -> bytes:
        data = read(descriptor, min(size, 50))
        if next(shorten, False):
            file.write_bytes(bytes(60))
        return data

    monkeypatch.setattr(os, "read", read_and_shorten)
    with pytest.raises(OSError, match="was changed while it was read"):
        read_below(tmp_path, PurePath("a"), 1000)


def test_file_in_a_deep_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(900):
        folder /= "d"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"deep")
    assert read_below(tmp_path, (folder / "a").relative_to(tmp_path), 10) == b"deep"
