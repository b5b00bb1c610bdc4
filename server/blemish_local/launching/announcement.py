# SPDX-License-Identifier: Apache-2.0
"""The lines that ``blemish up`` prints when the stack is ready, with a command that reaches the server."""

import shlex
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blemish_local.address import Address, SocketAddress
from blemish_local.data_directory import DataDirectory
from blemish_local.options import StackOptions
from blemish_local.stack import Stack, is_console_installed

_TIMEOUT_S = 2.0
_OPEN = "off; every caller may do everything"


def announcement(
    options: StackOptions, data: DataDirectory, listen: Address | SocketAddress, stack: Stack
) -> str:
    """Return the lines. With TLS this connects to the server, to find the name that its certificate has."""
    security = _Security.of(options)
    roots = ", ".join(map(str, options.import_roots)) or "none (see --import-root)"
    return "\n".join(
        [
            "",
            f"blemish is up at {listen.to_connect}{_openness(listen, security)}",
            f"  data     {data.root}, logs in {data.logs.name}/",
            f"  store    {stack.store}",
            f"  imports  {roots}",
            f"  tls      {'on, ' + str(security.certificate) if security.certificate else 'off'}",
            f"  access   {'by token, ' + str(security.access_file) if security.access_file else _OPEN}",
            f"  metrics  {stack.metrics or 'off (see BLEMISH_METRICS_LISTEN)'}",
            f"  console  {stack.console or _no_console(options)}",
            *_example(listen, security),
            "  stop it  Ctrl-C",
        ]
    )


def _no_console(options: StackOptions) -> str:
    if options.console and not is_console_installed():
        return "not installed; get it with: pip install 'blemish[console]'"
    return "off"


@dataclass(frozen=True)
class _Security:
    """The files that decide how the server is reached."""

    certificate: Path | None
    access_file: Path | None
    has_token: bool
    """True if the environment has a token."""

    @classmethod
    def of(cls, options: StackOptions) -> "_Security":
        def path(name: str) -> Path | None:
            value = options.environment.get(name)
            return Path(value).absolute() if value else None

        return cls(
            path("BLEMISH_TLS_CERTIFICATE"),
            path("BLEMISH_ACCESS_FILE"),
            bool(options.environment.get("BLEMISH_TOKEN")),
        )


def _openness(listen: Address | SocketAddress, security: _Security) -> str:
    if not listen.is_open_to_others:
        return ""
    if security.access_file is None:
        return "  (open to other machines without authentication: set BLEMISH_ACCESS_FILE)"
    return "  (open to other machines)"


def _example(listen: Address | SocketAddress, security: _Security) -> Iterator[str]:
    """Yield a command that reaches the server, and how to get what it needs."""
    server, words = str(listen.to_connect), []
    if security.certificate is not None:
        server = reachable_by_tls(listen.to_connect, security.certificate) or server
        words = ["--roots", str(security.certificate)]
    needs_token = security.access_file is not None and not security.has_token
    command = shlex.join(["blemish", "--server", server, *words, "info"])
    yield f"  try it   {'BLEMISH_TOKEN=TOKEN ' * needs_token}{command}"
    if needs_token:
        grant = shlex.join(["--file", str(security.access_file)])
        yield f"           with a TOKEN of: blemish access grant NAME --role operator {grant}"


def reachable_by_tls(address: Address | SocketAddress, certificate: Path) -> str:
    """Return the address by a name that the certificate of the server has; empty if there is none.

    Args:
        address: address of the server on this machine.
        certificate: PEM file with the certificate, which verifies itself.
    """
    if isinstance(address, SocketAddress):
        return str(address)  # a client verifies the name localhost there, whatever the path
    for name in dict.fromkeys(_candidates(address, certificate)):
        with suppress(OSError, ValueError):  # among them errors of the handshake
            if _verifies(name, address.port, certificate):
                return str(Address(name, address.port))
    return ""


def _candidates(address: Address, certificate: Path) -> Iterator[str]:
    """Yield hosts by which the server may be reached, the best first."""
    yield address.host
    yield "localhost"
    with suppress(OSError, ValueError):
        yield from _names(address, certificate)


def _verifies(host: str, port: int, certificate: Path) -> bool:
    """Return whether a host can be connected to, under a name that its certificate has."""
    context = _context(certificate)
    with (
        socket.create_connection((host, port), _TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        return True


def _names(address: Address, certificate: Path) -> list[str]:
    """Return the names in the certificate of the server."""
    context = _context(certificate)
    context.check_hostname = False
    with (
        socket.create_connection((address.host, address.port), _TIMEOUT_S) as plain,
        context.wrap_socket(plain) as secure,
    ):
        found: Any = secure.getpeercert() or {}
    names = [str(value) for _, value in found.get("subjectAltName", ())]
    return [name for name in names if "*" not in name]


def _context(certificate: Path) -> ssl.SSLContext:
    """Return a context in which the certificate verifies itself, as in gRPC."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(certificate)
    return context
