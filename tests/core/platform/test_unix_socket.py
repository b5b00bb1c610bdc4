# SPDX-License-Identifier: Apache-2.0
import os
import socket
from pathlib import Path

import pytest

from blemish_core.platform.unix_socket import SocketUnusable, UnixSocket


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:/run/blemish.sock", "/run/blemish.sock"),
        ("unix:///run/blemish.sock", "/run/blemish.sock"),
        ("unix:run/blemish.sock", "run/blemish.sock"),
        ("unix:/run/a name ü.sock", "/run/a name ü.sock"),
        (f"unix:/{'l' * 106}", f"/{'l' * 106}"),
    ],
)
def test_socket_is_printed_as_given(text: str, path: str) -> None:
    parsed = UnixSocket.parse(text)
    assert parsed.path == Path(path)
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unix-abstract:blemish", "is an abstract socket, which every process"),
        ("unix:", "does not name a file"),
        ("unix:/run/", "does not name a file"),
        ("unix://", "has a host before the path"),
        ("unix://run/blemish.sock", "has a host before the path"),
        ("unix:\0blemish", "contains"),
        ("unix:/run/100%.sock", "contains '%'"),
        ("unix:/run/a?b", "contains '[?]'"),
        ("unix:/run/a#b", "contains '#'"),
        (f"unix:/{'l' * 107}", "has 108 bytes, and sockets have at most 107"),
        (f"unix:/{'ü' * 54}", "has 109 bytes"),
    ],
)
def test_unusable_path_is_rejected_with_a_remedy(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        UnixSocket.parse(text)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, because its own path may be too long for a socket."""
    monkeypatch.chdir(tmp_path)
    return Path()


def test_file_of_a_dead_server_is_removed(short: Path) -> None:
    path = short / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    UnixSocket.parse(f"unix:{path}").require_free()
    assert not path.exists()


def test_socket_of_a_running_server_stays(short: Path) -> None:
    path = short / "live.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(SocketUnusable, match=r"another process listens on unix:live\.sock"):
            UnixSocket.parse(f"unix:{path}").require_free()
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_other_files_are_never_removed(short: Path, kind: str) -> None:
    path = short / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        (short / "target").write_text("data")
        path.symlink_to("target")
    else:
        path.write_text("data")
    with pytest.raises(SocketUnusable, match="is not a socket"):
        UnixSocket.parse(f"unix:{path}").require_free()
    assert path.exists()


def test_missing_folder_is_named(short: Path) -> None:
    with pytest.raises(SocketUnusable, match=r"folder nowhere of unix:nowhere/a\.sock does not exist"):
        UnixSocket.parse("unix:nowhere/a.sock").require_free()


def test_socket_has_its_permissions_from_the_start(short: Path) -> None:
    mask = os.umask(0o022)
    try:
        with UnixSocket.parse("unix:own.sock").reserved(0o660), socket.socket(socket.AF_UNIX) as server:
            server.bind("own.sock")
            assert (short / "own.sock").stat().st_mode & 0o777 == 0o660
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)
