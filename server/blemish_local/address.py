# SPDX-License-Identifier: Apache-2.0
"""A host and port to listen on: parsed, checked for being free, spelled for those who connect."""

import errno
import socket
from dataclasses import dataclass

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class AddressUnusable(Exception):
    """Nothing can listen there; the text says why and what to choose instead."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def to_connect(self) -> "Address":
        """The address a client on this machine connects to."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    @property
    def is_open_to_others(self) -> bool:
        return self.host in _WILDCARDS


def parse(text: str) -> Address:
    """Read ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: with a sentence that shows the right spelling.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not HOST:PORT; an IPv6 host stands in brackets: [::1]:50051")
    if not (colon and host and port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:50051")
    return Address(host, int(port))


def settle(address: Address) -> Address:
    """Return ``address`` with a free port in the place of port 0.

    Raises:
        AddressUnusable: if another process listens there, or the host is not this machine's.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise AddressUnusable(
            f"the host {address.host!r} is unknown ({error.strerror}): "
            "listen on 127.0.0.1, or on 0.0.0.0 for every interface"
        ) from error
    port = address.port
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            # Connections of a server that just stopped must not look like a listener. The
            # port is never shared (SO_REUSEPORT), or two servers would split the calls.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((where[0], port, *where[2:]))
            except OSError as error:
                raise AddressUnusable(_reason(address, error)) from error
            port = probe.getsockname()[1]
    return Address(address.host, port)


def free_loopback_port() -> int:
    """Return a TCP port that nobody listened on a moment ago."""
    return settle(Address("127.0.0.1", 0)).port


def _reason(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is taken by another process: choose another, "
            f"or let one be found with --listen {Address(address.host, 0)}"
        )
    if error.errno == errno.EACCES:
        return f"port {address.port} needs the superuser: choose one above 1023"
    return (
        f"cannot listen on {address} ({error.strerror}): choose 127.0.0.1, or 0.0.0.0 for every interface"
    )
