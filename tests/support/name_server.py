# SPDX-License-Identifier: Apache-2.0
"""A DNS server that answers every query of an IPv4 address with the same addresses."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

_HEADER_BYTES = 12
_TYPE_A = 1


class NameServer:
    """A DNS server on a loopback port (RFC 1035, UDP, one question a message)."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))

    @property
    def address(self) -> str:
        """HOST:PORT that resolvers ask."""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(query), client)
            except OSError:
                return  # closed

    def _answer(self, query: bytes) -> bytes:
        end_of_name = query.index(0, _HEADER_BYTES) + 1
        question = query[_HEADER_BYTES : end_of_name + 4]
        (kind,) = struct.unpack_from("!H", query, end_of_name)
        addresses = self._addresses if kind == _TYPE_A else ()
        header = struct.pack("!2sHHHHH", query[:2], 0x8180, 1, len(addresses), 0, 0)
        # Each record points to the name of the question.
        records = b"".join(
            struct.pack("!HHHIH4s", 0xC000 | _HEADER_BYTES, _TYPE_A, 1, 1, 4, socket.inet_aton(address))
            for address in addresses
        )
        return header + question + records
