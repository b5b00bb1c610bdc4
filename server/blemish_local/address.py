# SPDX-License-Identifier: Apache-2.0
"""Addresses to listen on: parsing, a check that they are free, and the form for clients.

An address is a host and a TCP port, or a unix socket.
"""

import errno
import socket
from dataclasses import dataclass

from blemish_core.platform.unix_socket import SocketUnusable, UnixSocket

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class AddressUnusable(Exception):
    """An address on which the process cannot listen."""


@dataclass(frozen=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def to_connect(self) -> "Address":
        """The address for clients on this machine."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    @property
    def is_open_to_others(self) -> bool:
        return self.host in _WILDCARDS


@dataclass(frozen=True)
class SocketAddress:
    """A unix socket, which only processes of this machine can reach."""

    socket: UnixSocket

    def __str__(self) -> str:
        return str(self.socket)

    @property
    def to_connect(self) -> "SocketAddress":
        return self

    @property
    def is_open_to_others(self) -> bool:
        return False


def parse(text: str) -> Address | SocketAddress:
    """Parse ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

    Raises:
        ValueError: if the text is none of them; the message contains an example.
    """
    if text.startswith(("unix:", "unix-abstract:")):
        return SocketAddress(UnixSocket.parse(text))
    return parse_port(text)


def parse_port(text: str) -> Address:
    """Parse ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: if the text is neither; the message contains an example.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not HOST:PORT; put an IPv6 host in brackets: [::1]:50051")
    if not (colon and host and port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT; for example 127.0.0.1:50051")
    return Address(host, int(port))


def settle(address: Address | SocketAddress) -> Address | SocketAddress:
    """Return the address with port 0 replaced by a free port.

    Raises:
        AddressUnusable: if another process listens there, the host is not one of this machine, or the file
            of the socket cannot be created.
    """
    if isinstance(address, Address):
        return _settle_port(address)
    try:
        address.socket.require_free()
    except SocketUnusable as error:
        raise AddressUnusable(str(error)) from error
    return address


def _settle_port(address: Address) -> Address:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise AddressUnusable(
            f"the host {address.host!r} is unknown ({error.strerror}); "
            "listen on 127.0.0.1, or on 0.0.0.0 for every interface"
        ) from error
    port = address.port
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            # Connections of a server that just stopped must not look like a listener. The port is never
            # shared (SO_REUSEPORT), because two servers would then divide the calls.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((where[0], port, *where[2:]))
            except OSError as error:
                raise AddressUnusable(_reason(address, error)) from error
            port = probe.getsockname()[1]
    return Address(address.host, port)


def free_loopback_port() -> int:
    """Return a loopback port that is free at the moment."""
    return _settle_port(Address("127.0.0.1", 0)).port


def _reason(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is taken by another process; choose another, "
            f"or let one be found with --listen {Address(address.host, 0)}"
        )
    if error.errno == errno.EACCES:
        return f"port {address.port} requires the superuser; choose one above 1023"
    return (
        f"cannot listen on {address} ({error.strerror}); choose 127.0.0.1, or 0.0.0.0 for every interface"
    )
