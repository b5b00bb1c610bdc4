# SPDX-License-Identifier: Apache-2.0
import os
import socket
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest
from tests.support.deep_folder import deep_folder

from blemish_layouts.reading import open_regular, read_below, read_regular, walk


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
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        open_regular(special[kind])


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


def test_folders_are_walked_however_deep_they_are(tmp_path: Path) -> None:
    with deep_folder(tmp_path) as folder:
        assert [path for path, folders, _ in walk(tmp_path) if not folders] == [folder]


def test_links_and_removed_names_are_not_entered(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / name).touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "a")
    found: list[str] = []
    for _, folders, names in walk(tmp_path / "root"):
        found += names
        if "b" in folders:
            folders.remove("b")
    assert sorted(found) == ["a", "c"]
    followed = [name for _, _, names in walk(tmp_path / "root", follow_links=True) for name in names]
    assert sorted(followed) == ["a", "a", "b", "c"]
