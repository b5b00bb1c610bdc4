# SPDX-License-Identifier: Apache-2.0
"""The options of ``blemish up``: its arguments combined with the environment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from blemish_core.platform.redis_address import RedisAddress
from blemish_local import address
from blemish_local.address import Address, SocketAddress

DEFAULT_DATA = Path("blemish-data")
DEFAULT_LISTEN = "127.0.0.1:50051"
_QDRANT_GRPC_PORT = 6334


@dataclass(frozen=True)
class StackOptions:
    """The options of one stack, checked and with absolute paths."""

    data: Path
    """Folder that holds all data of the stack."""
    listen: Address | SocketAddress
    """Address of the server; port 0 picks a free port, and unix:PATH names a unix socket."""
    import_roots: tuple[Path, ...]
    """Folders from which datasets may be imported."""
    address_file: Path | None
    """File that receives the server's address once everything is ready."""
    redis_url: str | None
    """URL of an external Redis; None starts one."""
    qdrant_url: str | None
    """URL of an external Qdrant, reached by gRPC at ``qdrant_grpc_port``; None starts one."""
    qdrant_grpc_port: int
    """gRPC port of the external Qdrant."""
    qdrant_proxy: str
    """URL of an HTTP proxy for the external Qdrant; empty connects directly."""
    stop_with_stdin: bool
    """Flag that makes the end of standard input a request to stop."""
    console: bool
    """Flag that starts the console for browsers, too."""
    quiet: bool
    """Flag that suppresses all messages except warnings."""
    environment: Mapping[str, str]
    """Environment of this process, passed on to its children."""


def resolve(
    environment: Mapping[str, str],
    *,
    data: Path = DEFAULT_DATA,
    listen: str = DEFAULT_LISTEN,
    import_roots: Sequence[Path] | None = None,
    address_file: Path | None = None,
    stop_with_stdin: bool = False,
    console: bool = False,
    quiet: bool = False,
) -> StackOptions:
    """Check the arguments and complete them from the environment.

    Raises:
        ValueError: if an argument or a variable cannot be used.
    """
    return StackOptions(
        data=data.absolute(),
        listen=address.parse(listen),
        import_roots=_import_roots(import_roots, environment),
        address_file=_address_file(address_file),
        redis_url=_redis_url(environment),
        qdrant_url=_url(environment, "QDRANT_URL", ("http", "https"), "http://HOST:6333"),
        qdrant_grpc_port=_port(environment, "QDRANT_GRPC_PORT", _QDRANT_GRPC_PORT),
        qdrant_proxy=_url(environment, "QDRANT_PROXY", ("http",), "http://HOST:3128") or "",
        stop_with_stdin=stop_with_stdin,
        console=console,
        quiet=quiet,
        environment=dict(environment),
    )


def _import_roots(given: Sequence[Path] | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    if not given:
        inherited = environment.get("BLEMISH_IMPORT_ROOTS", "")
        given = [Path(root) for root in inherited.split(os.pathsep) if root]
    for root in given:
        if not root.is_dir():
            raise ValueError(f"the import root {root} is not a folder; create it or choose another")
        if os.pathsep in str(root.absolute()):
            raise ValueError(
                f"the import root {root} contains {os.pathsep!r}, which separates roots; rename the folder"
            )
    return tuple(root.absolute() for root in given)


def _address_file(given: Path | None) -> Path | None:
    if given is None:
        return None
    path = given.absolute()
    # Fail now rather than after everything has started.
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"the address file {given} cannot be written; choose another with --address-file")
    return path


def _redis_url(environment: Mapping[str, str]) -> str | None:
    url = environment.get("REDIS_URL")
    if not url:
        return None
    try:
        RedisAddress.parse(url)
    except ValueError as error:
        raise ValueError(f"REDIS_URL cannot be used: {error}") from error
    return url


def _url(environment: Mapping[str, str], name: str, schemes: tuple[str, ...], example: str) -> str | None:
    url = environment.get(name)
    if not url:
        return None
    # The URL may contain a password, so no message repeats it.
    reason = f"{name} is not a valid URL; set it to a URL such as {example}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(reason) from None
    if not usable:
        raise ValueError(reason)
    return url


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"{name} is {text!r}, which is not a port; set it to a number such as {default}")
    return int(text)
