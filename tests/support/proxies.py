# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an HTTP proxy that records who contacts it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = (
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "grpc_proxy",
    "all_proxy",
    "ALL_PROXY",
)
"""Variables of the environment that name a proxy to gRPC, httpx, urllib and curl."""
EXCEPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
"""Variables that list hosts to reach without a proxy."""


class RecordingProxy:
    """A proxy that records the first line of each request. It forwards CONNECT if ``forwards``."""

    def __init__(self, *, forwards: bool = False) -> None:
        self.requests: list[str] = []
        self._forwards = forwards
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Without the shutdown, the thread that accepts would keep the port open.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(4096)
                if not data:
                    break
                head += data
            line = head.partition(b"\r\n")[0].decode(errors="replace")
            self.requests.append(line)
            if not self._forwards or not line.startswith("CONNECT "):
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = line.split()[1].rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port))) as target:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(target, connection), daemon=True)
                back.start()
                _copy(connection, target)
                back.join()


@contextmanager
def recording_proxy(*, forwards: bool = False) -> Iterator[RecordingProxy]:
    """Run a stand-in proxy."""
    proxy = RecordingProxy(forwards=forwards)
    try:
        yield proxy
    finally:
        proxy.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side ended the connection
