# SPDX-License-Identifier: Apache-2.0
"""What ``blemish up`` was told: its arguments, and what the environment says beside them."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from blemish_local import address
from blemish_local.address import Address

_EPILOG = """\
environment:
  REDIS_URL            use this Redis instead of starting one
  QDRANT_URL           use this Qdrant instead of starting one
  QDRANT_GRPC_PORT     its gRPC port (default: 6334)
  BLEMISH_LISTEN       like --listen
  BLEMISH_STORE        where datasets and models lie (default: DATA/store)
  BLEMISH_IMPORT_ROOTS like --import-root, several separated by "{separator}"
Everything else in the environment reaches the server and the worker unchanged.

exit codes: 0 stopped, 1 a part failed, 2 wrong usage, port or folder
"""


@dataclass(frozen=True)
class Settings:
    data: Path
    """Absolute path of the folder below which everything lies."""
    listen: Address
    """Where the server listens; port 0 stands for a free one."""
    import_roots: tuple[Path, ...]
    """The folders datasets may be imported from; none by default."""
    address_file: Path | None
    """Where the server's address is written once everything is ready."""
    redis_url: str | None
    """A Redis that runs elsewhere; None: start one."""
    qdrant_url: str | None
    """A Qdrant that runs elsewhere, reached by gRPC at ``qdrant_grpc_port``; None: start one."""
    qdrant_grpc_port: int
    stop_with_stdin: bool
    """Whether the end of standard input is a request to stop."""
    quiet: bool
    environment: Mapping[str, str]
    """What this process was started with, handed on to its children."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the command line.

    Raises:
        SystemExit: with code 2, after the reason was printed to stderr.
    """
    parser = argparse.ArgumentParser(prog="blemish", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="up")
    up = commands.add_parser(
        "up",
        help="start Redis, Qdrant, a worker and the server here",
        description="Start Redis, Qdrant, a worker and the server on this machine.",
        epilog=_EPILOG.format(separator=os.pathsep),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    up.add_argument(
        "--data",
        type=Path,
        default=Path("blemish-data"),
        metavar="DIR",
        help="where everything is kept (default: ./blemish-data)",
    )
    up.add_argument(
        "--listen",
        default=environment.get("BLEMISH_LISTEN") or "127.0.0.1:50051",
        metavar="HOST:PORT",
        help="where the server listens; port 0 finds a free one (default: 127.0.0.1:50051)",
    )
    up.add_argument(
        "--import-root",
        type=Path,
        action="append",
        metavar="DIR",
        help="a folder that datasets may be imported from; may be repeated (default: none)",
    )
    up.add_argument(
        "--address-file",
        type=Path,
        metavar="FILE",
        help="write the server's address here once everything is ready",
    )
    up.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input ends: for a program that starts this and may be killed",
    )
    up.add_argument("--quiet", action="store_true", help="say only what went wrong")
    told = parser.parse_args(arguments)
    try:
        listen = address.parse(told.listen)
        roots = _import_roots(told.import_root, environment)
        address_file = _address_file(told.address_file)
        # Celery's transport and redis-py must both read it, which leaves no room for sockets.
        redis_url = _url(environment, "REDIS_URL", ("redis", "rediss"), "redis://HOST:6379/0")
        qdrant_url = _url(environment, "QDRANT_URL", ("http", "https"), "http://HOST:6333")
        qdrant_grpc_port = _port(environment, "QDRANT_GRPC_PORT", 6334)
    except ValueError as error:
        up.error(str(error))
    return Settings(
        data=told.data.absolute(),
        listen=listen,
        import_roots=roots,
        address_file=address_file,
        redis_url=redis_url,
        qdrant_url=qdrant_url,
        qdrant_grpc_port=qdrant_grpc_port,
        stop_with_stdin=told.stop_with_stdin,
        quiet=told.quiet,
        environment=dict(environment),
    )


def _import_roots(told: list[Path] | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    if told is None:
        inherited = environment.get("BLEMISH_IMPORT_ROOTS", "")
        told = [Path(root) for root in inherited.split(os.pathsep) if root]
    for root in told:
        if not root.is_dir():
            raise ValueError(f"the import root {root} is not a folder")
        if os.pathsep in str(root.absolute()):
            raise ValueError(
                f"the import root {root} must not contain {os.pathsep!r}, which separates roots"
            )
    return tuple(root.absolute() for root in told)


def _address_file(told: Path | None) -> Path | None:
    if told is None:
        return None
    path = told.absolute()
    # Found out now rather than when everything has started.
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"the address file {told} cannot be written")
    return path


def _url(environment: Mapping[str, str], name: str, schemes: tuple[str, ...], example: str) -> str | None:
    url = environment.get(name)
    if not url:
        return None
    # The URL may hold a password, so no message repeats it.
    complaint = f"{name} is not a URL such as {example}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(complaint) from None
    if not usable:
        raise ValueError(complaint)
    return url


def _port(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environment.get(name) or str(otherwise)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"{name} is {text!r}, not a port such as {otherwise}")
    return int(text)
