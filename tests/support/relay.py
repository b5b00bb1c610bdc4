# SPDX-License-Identifier: Apache-2.0
"""A TCP relay whose link can go silent: it stops forwarding and closes nothing."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 16 << 10


class Relay:
    """A relay between clients and servers, with a port of its own.

    Neither side of a silent link receives a FIN or an RST. A link that was silent with ``discard`` has lost
    bytes, so it stays silent; connections made after ``resume`` are forwarded.
    """

    def __init__(self, *targets: str, bytes_per_s: float | None = None) -> None:
        """Relay to each of ``targets`` in turn, with at most ``bytes_per_s`` from client to server."""
        self._targets = targets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._bytes_per_s = bytes_per_s
        self._open: list[_Link] = []
        self._lock = threading.Lock()
        self._silent = False
        self.accepted = 0
        """Number of connections so far, each to the next target."""

    @property
    def address(self) -> str:
        """HOST:PORT that clients connect to."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def silence(self, *, discard: bool = False) -> None:
        """Stop forwarding on all connections, present and future ones.

        Args:
            discard: read and drop what is sent, so that it is acknowledged to the sender's system. By
                default nothing is read, so that the sender's buffers fill up.
        """
        with self._lock:
            self._silent = True
            for link in self._open:
                link.silence(discard=discard)

    def resume(self) -> None:
        """Forward again."""
        with self._lock:
            self._silent = False
            for link in self._open:
                link.resume()

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            for link in self._open:
                link.close()
            self._open.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            host, _, port = self._targets[self.accepted % len(self._targets)].rpartition(":")
            try:
                far = socket.create_connection((host, int(port)))
            except OSError:
                near.close()
                continue
            with self._lock:
                self.accepted += 1
                link = _Link(near, far, self._bytes_per_s)
                if self._silent:
                    link.silence(discard=False)  # as TCP does, which sends its SYN again
                self._open.append(link)
                link.start()


class _Link:
    """A connection of a client and the one to the server that belongs to it."""

    def __init__(self, near: socket.socket, far: socket.socket, bytes_per_s: float | None) -> None:
        self._ends = (near, far)
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bytes_per_s = bytes_per_s
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._discarding = threading.Event()
        self._closed = False

    def start(self) -> None:
        near, far = self._ends
        for source, sink, bytes_per_s in ((near, far, self._bytes_per_s), (far, near, None)):
            threading.Thread(target=self._forward, args=(source, sink, bytes_per_s), daemon=True).start()

    def silence(self, *, discard: bool) -> None:
        if discard:
            self._discarding.set()
        else:
            self._forwarding.clear()

    def resume(self) -> None:
        self._forwarding.set()

    def close(self) -> None:
        self._closed = True
        self._forwarding.set()
        for end in self._ends:
            with suppress(OSError):  # its peer has closed it
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _forward(self, source: socket.socket, sink: socket.socket, bytes_per_s: float | None) -> None:
        try:
            while True:
                self._forwarding.wait()
                chunk = source.recv(_CHUNK_BYTES)
                self._forwarding.wait()
                if self._closed:
                    return
                if self._discarding.is_set():
                    if not chunk:
                        return
                elif chunk:
                    sink.sendall(chunk)
                    if bytes_per_s:
                        time.sleep(len(chunk) / bytes_per_s)
                else:
                    sink.shutdown(socket.SHUT_WR)
                    return
        except OSError:
            self.close()
