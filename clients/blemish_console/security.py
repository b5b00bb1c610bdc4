# SPDX-License-Identifier: Apache-2.0
"""The guard before all pages: hosts, origins, sessions of sockets, headers and the access log.

A page on another site must not act for the user. It may send requests here, but a browser states its origin
with them. A name of another site may also resolve to this machine, so the host is checked, too.
"""

import ipaddress
import logging
import socket
from collections.abc import Callable, Collection, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blemish_console.session import BrowserSession

_log = logging.getLogger("blemish_console.access")

SOCKET_PATH = "/_nicegui_ws"
_STATIC_PATH = "/_nicegui/"
_SAFE_METHODS = ("GET", "HEAD")
_MAX_BODY_BYTES = 65_000_000
"""Largest body of a request: an uploaded image with the lines of its form."""
_MAX_IMPORT_BYTES = 64 << 30
"""Largest body of an import, which is not held in memory. The server's own limit is usually lower."""
IMPORT_PATH = "/imports"
_FRAMED_PATH = "/reports/"
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""NiceGUI compiles its templates in the browser, which needs unsafe-eval. Nothing comes from elsewhere."""
_FRAMED_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)
"""Reports are pages of their own without access to the console."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class OriginPolicy:
    """The hosts and origins under which a browser may open the console."""

    def __init__(self, origins: Iterable[str] = (), names: Collection[str] | None = None) -> None:
        """Allow this machine's names, all IP addresses, and the hosts of ``origins``.

        Args:
            origins: origins such as https://line.example.com, for a reverse proxy or another name.
            names: names of this machine; None finds them.

        Raises:
            ValueError: if an origin is malformed.
        """
        self._origins = frozenset(map(_parse_origin, origins))
        self._hosts = {urlsplit(origin).netloc for origin in self._origins}
        self._names = {"localhost", *(names if names is not None else _own_names())}

    def accepts_host(self, host: str) -> bool:
        """Return whether the host of a request belongs to this console."""
        host = host.lower()
        if host in self._hosts:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.rstrip(".") in self._names or _is_address(name)

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Return whether a request comes from a page of this console.

        Args:
            origin: header of that name.
            host: header of that name.
        """
        origin = origin.lower()
        if origin in self._origins:
            return True
        parts = urlsplit(origin)
        return (
            parts.scheme in ("http", "https") and parts.netloc == host.lower() and self.accepts_host(host)
        )


def _parse_origin(text: str) -> str:
    parts = urlsplit(text.lower().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not an origin; give one such as https://line.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """The outermost ASGI application: it rejects requests of other sites before anything reads them."""

    def __init__(
        self,
        app: ASGIApp,
        policy: OriginPolicy,
        find_session: Callable[[str], BrowserSession | None],
        *,
        cookie: str,
        root_path: str = "",
    ) -> None:
        """Guard an application.

        Args:
            app: the application.
            policy: allowed hosts and origins.
            find_session: returns the session for the value of the cookie, empty without one.
            cookie: name of the cookie.
            root_path: path below which a reverse proxy serves the console, such as /blemish.
        """
        self._app = app
        self._policy = policy
        self._find_session = find_session
        self._cookie = cookie
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = self._below_root(scope)
        headers = Headers(scope=scope)
        session = self._find_session(cookie_parser(headers.get("cookie", "")).get(self._cookie, ""))
        if reason := self._refusal(scope, headers, session):
            _log.warning("%s refused: %s", _describe(scope, session), reason)
            await _refuse(scope, receive, send, reason)
            return
        path = scope["path"].removeprefix(self._root_path)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), path)
                if not path.startswith(_STATIC_PATH):
                    _log.info("%s %d", _describe(scope, session), message["status"])
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _below_root(self, scope: Scope) -> Scope:
        """Return the scope with the root path in front of the path, whether or not the proxy removed it."""
        path = scope["path"]
        if self._root_path and not f"{path}/".startswith(f"{self._root_path}/"):
            path = self._root_path + path
        # NiceGUI would write this header into pages.
        headers = [each for each in scope["headers"] if each[0] != b"x-forwarded-prefix"]
        return {**scope, "path": path, "root_path": self._root_path, "headers": headers}

    def _refusal(self, scope: Scope, headers: Headers, session: BrowserSession | None) -> str:
        """Return the reason for which a request is refused; empty if it is not."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if not self._policy.accepts_host(host):
            return "the host is not a name of this console; allow it with --origin"
        path = scope["path"].removeprefix(self._root_path)
        is_socket = path.startswith(SOCKET_PATH)
        if scope["type"] == "websocket" or is_socket or scope["method"] not in _SAFE_METHODS:
            if not self._policy.accepts_origin(origin, host):
                return "the page that sent this is not of this console; allow its origin with --origin"
            if is_socket and (scope["type"] != "websocket" or session is None):
                return "the session has ended; sign in"
            if path.startswith(_STATIC_PATH) and session is None:
                return "the session has ended; sign in"
            length = headers.get("content-length", "0")
            most = _MAX_IMPORT_BYTES if path == IMPORT_PATH else _MAX_BODY_BYTES
            if "transfer-encoding" in headers or not length.isdecimal() or int(length) > most:
                return f"the body must state its length, at most {most} bytes; send less"
            return ""
        is_embedded = headers.get("sec-fetch-mode", "navigate") != "navigate"
        if headers.get("sec-fetch-site") == "cross-site" and is_embedded:
            return "pages of other sites cannot embed the console; open it by itself"
        return ""


def _add_headers(headers: MutableHeaders, path: str) -> None:
    for name, value in _HEADERS.items():
        headers[name] = value
    headers["content-security-policy"] = _FRAMED_POLICY if path.startswith(_FRAMED_PATH) else _POLICY


def _describe(scope: Scope, session: BrowserSession | None) -> str:
    """Return caller, method and path for the log; the path is still quoted, so that it fits a line."""
    address = (scope.get("client") or ("-", 0))[0]
    caller = (session.caller if session is not None else "") or "-"
    path = scope.get("raw_path", b"-").partition(b"?")[0].decode("ascii", "replace")
    return f"{address} {caller} {scope.get('method', 'WEBSOCKET')} {path}"


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403, "reason": reason})
        return
    await PlainTextResponse(f"{reason}\n", 403)(scope, receive, send)
