# SPDX-License-Identifier: Apache-2.0
"""A reverse proxy that serves one application below a path, over HTTP or HTTPS, with its WebSockets."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.support.redis_server import Authority

_CHUNK_BYTES = 64 << 10
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class ReverseProxy:
    """A proxy that passes on one request per connection, as nginx does with the lines of the guide."""

    def __init__(self, path: str, *, keeps_path: bool, authority: Authority | None) -> None:
        self._path = path
        self._keeps_path = keeps_path
        self._tls: ssl.SSLContext | None = None
        if authority is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(authority.chain, authority.key)
        self._target = ("", 0)
        self.upgraded = 0
        """Number of WebSockets that were passed on."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if authority is None else "https"
        self.origin = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def serve(self, url: str) -> None:
        """Pass requests on to the host and port of a URL."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)

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
        with suppress(OSError), self._secured(connection) as client:
            received = b""
            while b"\r\n\r\n" not in received:
                data = client.recv(_CHUNK_BYTES)
                if not data:
                    return
                received += data
            head, _, rest = received.partition(b"\r\n\r\n")
            passed_on = self._rewrite(head.decode("latin-1"))
            if passed_on is None:
                client.sendall(_NOT_FOUND)
                return
            with socket.create_connection(self._target) as target:
                target.sendall(passed_on.encode("latin-1") + rest)
                back = threading.Thread(target=_copy, args=(client, target), daemon=True)
                back.start()
                _copy(target, client)
                back.join()

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            raise

    def _rewrite(self, head: str) -> str | None:
        """Return the head of the request for the application, or None if the path is not served."""
        line, *headers = head.split("\r\n")
        method, target, version = line.split(" ", 2)
        if not re.fullmatch(rf"{re.escape(self._path)}([/?].*)?", target):
            return None
        if not self._keeps_path:
            target = target.removeprefix(self._path)
            target = target if target.startswith("/") else f"/{target}"
        is_upgrade = any(header.lower().startswith("upgrade:") for header in headers)
        self.upgraded += is_upgrade
        kept = [header for header in headers if not header.lower().startswith("connection:")]
        kept.append(f"Connection: {'upgrade' if is_upgrade else 'close'}")
        kept.append(f"X-Forwarded-Proto: {urlsplit(self.origin).scheme}")
        return "\r\n".join([f"{method} {target} {version}", *kept]) + "\r\n\r\n"


@contextmanager
def reverse_proxy(
    path: str, *, keeps_path: bool = False, authority: Authority | None = None
) -> Iterator[ReverseProxy]:
    """Run a reverse proxy; with an authority, over HTTPS."""
    proxy = ReverseProxy(path, keeps_path=keeps_path, authority=authority)
    try:
        yield proxy
    finally:
        proxy.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
