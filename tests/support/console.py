# SPDX-License-Identifier: Apache-2.0
"""A server in memory for sessions of the console, and requests to its ASGI applications."""

from dataclasses import dataclass, field

import grpc
from starlette.types import ASGIApp, Message, Scope

from blemish.v1.access_pb2 import Role
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client.client import Client
from blemish_client.errors import Unauthenticated
from blemish_console.session import Server


@dataclass
class Callers:
    """The callers of a server by their tokens; without any it is open."""

    by_token: dict[str, tuple[str, Role.ValueType]] = field(default_factory=dict)
    questions: int = 0
    """Number of answered questions about the server."""

    def answer(self, token: str) -> GetServerInfoResponse:
        self.questions += 1
        if not self.by_token:
            return GetServerInfoResponse(version="1.2.3")
        if token not in self.by_token:
            raise Unauthenticated("unknown token", code=grpc.StatusCode.UNAUTHENTICATED)
        caller, role = self.by_token[token]
        return GetServerInfoResponse(version="1.2.3", caller=caller, role=role)


class FakeClient(Client):
    """A client whose server answers from memory."""

    def __init__(self, callers: Callers, token: str) -> None:
        super().__init__("127.0.0.1:1")
        self._callers = callers
        self._token = token

    def server_info(self) -> GetServerInfoResponse:
        return self._callers.answer(self._token)


@dataclass(frozen=True)
class FakeServer(Server):
    """A server in memory."""

    callers: Callers = field(default_factory=Callers)

    def client(self, token: str) -> Client:
        return FakeClient(self.callers, token)


def fake_server(**roles: Role.ValueType) -> FakeServer:
    """Return a server with a caller per keyword, whose token is ``token-of-NAME``."""
    by_token = {f"token-of-{name}": (name, role) for name, role in roles.items()}
    return FakeServer("127.0.0.1:1", callers=Callers(by_token))


@dataclass(frozen=True)
class Answer:
    """The answer of an ASGI application; ``status`` is 0 for a socket that was closed at once."""

    status: int
    headers: dict[str, str]
    body: str


async def request(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    kind: str = "http",
    body: bytes = b"",
    **headers: str,
) -> Answer:
    """Send one request; underscores in names of headers stand for hyphens."""
    given = {"host": "127.0.0.1:8080"} | {key.replace("_", "-"): value for key, value in headers.items()}
    if body:
        given |= {
            "content-length": str(len(body)),
            "content-type": "application/x-www-form-urlencoded",
        }
    path, _, query = path.partition("?")
    scope: Scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    if kind == "websocket":
        del scope["method"]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    found = {key.decode(): value.decode() for key, value in start.get("headers", ())}
    content = b"".join(each.get("body", b"") for each in sent[1:])
    return Answer(start.get("status", 0), found, content.decode())
