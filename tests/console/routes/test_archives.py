# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Scope
from tests.support.console import Answer, Callers, FakeClient, FakeServer, request

from blemish.v1.model_pb2 import ExportModelResponse, ModelVersion
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client.client import Client
from blemish_client.errors import BlemishError, InvalidArgument, NotFound, PermissionDenied
from blemish_console.routes import archives
from blemish_console.session import BrowserSession, SessionStore


@dataclass
class Archives:
    """The exports and imports of a server in memory."""

    failure: BlemishError | None = None
    received: list[bytes] = field(default_factory=list)
    model_id: str = ""
    closed: int = 0
    """Number of clients of exports that were closed."""


class ArchiveClient(FakeClient):
    def __init__(self, archives: Archives) -> None:
        super().__init__(Callers(), "")
        self._archives = archives

    def server_info(self) -> GetServerInfoResponse:
        return GetServerInfoResponse(max_loaded_bytes=1000)

    def model(self, name: str) -> ModelVersion:
        if self._archives.failure is not None:
            raise self._archives.failure
        return ModelVersion(name="models/tile/versions/3")

    def import_stream(
        self, chunks: Iterable[bytes], size_bytes: int, *, model_id: str = ""
    ) -> ModelVersion:
        for chunk in chunks:
            self._archives.received.append(chunk)
            if self._archives.failure is not None:
                raise self._archives.failure
        self._archives.model_id = model_id
        return ModelVersion(name=f"models/{model_id}/versions/1")


class ExportClient:
    def __init__(self, archives: Archives) -> None:
        self._archives = archives

    async def export_stream(self, model: str) -> AsyncIterator[ExportModelResponse]:
        yield ExportModelResponse(size_bytes=6)
        yield ExportModelResponse(chunk=b"abc")
        yield ExportModelResponse(chunk=b"def")

    async def close(self) -> None:
        self._archives.closed += 1


@dataclass(frozen=True)
class ArchiveServer(FakeServer):
    archives: Archives = field(default_factory=Archives)

    def client(self, token: str) -> Client:
        return ArchiveClient(self.archives)

    def job_client(self, token: str) -> Any:
        return ExportClient(self.archives)


@pytest.fixture
def server() -> Archives:
    return Archives()


@pytest.fixture
async def session(server: Archives) -> AsyncIterator[BrowserSession]:
    store = SessionStore(ArchiveServer("127.0.0.1:1", archives=server), 3600)
    opened = await store.open()
    assert opened is not None
    yield opened
    store.close()


def app(session: BrowserSession | None) -> Starlette:
    return Starlette(
        routes=[
            Route("/imports", archives.import_(lambda _: session), methods=["POST"]),
            Route("/exports/{version:path}", archives.export(lambda _: session), methods=["GET"]),
        ]
    )


async def upload(session: BrowserSession | None, *messages: Message, size: int = 6) -> Answer:
    """Send an upload in messages as they arrive."""
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/imports",
        "query_string": b"as=other",
        "headers": [(b"content-length", str(size).encode())],
    }
    left, sent = list(messages), []

    async def receive() -> Message:
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(session)(scope, receive, send)
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return Answer(sent[0]["status"], {"left": str(len(left))}, body.decode())


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_bytes_of_an_import_pass_through_as_they_arrive(
    session: BrowserSession, server: Archives
) -> None:
    answer = await upload(session, part(b"abc"), part(b""), part(b"def", more=False))
    assert (answer.status, answer.body) == (200, "models/other/versions/1")
    assert (server.received, server.model_id) == ([b"abc", b"def"], "other")


async def test_refused_import_has_the_reason_after_all_bytes_were_read(
    session: BrowserSession, server: Archives
) -> None:
    server.failure = InvalidArgument("it is damaged; export again", code=grpc.StatusCode.INVALID_ARGUMENT)
    answer = await upload(session, part(b"abc"), part(b"def"), part(b"", more=False))
    assert (answer.status, answer.body) == (400, "it is damaged; export again\n")
    assert server.received == [b"abc"]
    assert answer.headers["left"] == "0"


async def test_cut_upload_is_not_imported(session: BrowserSession, server: Archives) -> None:
    answer = await upload(session, part(b"abc"))
    assert answer.status == 400
    assert "cut" in answer.body
    assert server.model_id == ""


@pytest.mark.parametrize(("size", "status"), [(1001, 413), (0, 400)])
async def test_file_that_cannot_be_imported_is_not_read(
    session: BrowserSession, server: Archives, size: int, status: int
) -> None:
    answer = await upload(session, part(b"abc"), size=size)
    assert answer.status == status
    assert server.received == []


async def test_import_without_a_session_is_refused() -> None:
    assert (await upload(None, part(b"abc", more=False))).status == 401


async def test_export_is_a_file_named_after_the_version(session: BrowserSession, server: Archives) -> None:
    answer = await request(app(session), "/exports/models/tile@production")
    assert (answer.status, answer.body) == (200, "abcdef")
    assert answer.headers["content-length"] == "6"
    assert answer.headers["content-disposition"] == 'attachment; filename="tile-3.blemish"'
    assert server.closed == 1


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (NotFound("gone; choose another", code=grpc.StatusCode.NOT_FOUND), 404),
        (PermissionDenied("not yours; ask", code=grpc.StatusCode.PERMISSION_DENIED), 403),
    ],
)
async def test_export_that_fails_has_the_reason(
    session: BrowserSession, server: Archives, failure: BlemishError, status: int
) -> None:
    server.failure = failure
    answer = await request(app(session), "/exports/tile/9")
    assert (answer.status, answer.body) == (status, f"{failure.message}\n")


async def test_other_site_exports_nothing(session: BrowserSession) -> None:
    answer = await request(app(session), "/exports/tile/3", sec_fetch_site="cross-site")
    assert answer.status == 403
