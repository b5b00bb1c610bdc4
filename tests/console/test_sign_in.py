# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.support.console import Answer, FakeServer, fake_server, request

from blemish.v1.access_pb2 import ROLE_SERVICE
from blemish_console import texts
from blemish_console.routes.sign_in import SignIn
from blemish_console.session import SessionStore


@pytest.fixture
def server() -> FakeServer:
    return fake_server(ann=ROLE_SERVICE)


@pytest.fixture
def store(server: FakeServer) -> Iterator[SessionStore]:
    store = SessionStore(server, 3600)
    yield store
    store.close()


@pytest.fixture
def app(store: SessionStore) -> Starlette:
    routes = SignIn(store, "c")
    return Starlette(
        routes=[
            Route("/sign-in", routes.show, methods=["GET"]),
            Route("/sign-in", routes.sign_in, methods=["POST"]),
            Route("/sign-out", routes.sign_out, methods=["POST"]),
        ]
    )


async def sign_in(app: Starlette, token: str, target: str = "") -> Answer:
    body = urlencode({"token": token, "next": target}).encode()
    return await request(app, "/sign-in", method="POST", body=body)


def cookie(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


async def test_page_has_no_script(app: Starlette) -> None:
    answer = await request(app, "/sign-in")
    assert answer.status == 200
    assert "<script" not in answer.body
    assert 'type="password"' in answer.body


async def test_token_becomes_a_cookie_that_scripts_cannot_read(app: Starlette, store: SessionStore) -> None:
    answer = await sign_in(app, " token-of-ann\n", "/system")
    assert (answer.status, answer.headers["location"]) == (303, "/system")
    assert "token-of-ann" not in str(answer)
    attributes = answer.headers["set-cookie"].lower()
    assert "httponly" in attributes
    assert "samesite=lax" in attributes
    session = store.find(cookie(answer))
    assert session is not None
    assert session.caller == "ann"


@pytest.mark.parametrize(
    ("token", "status", "problem"),
    [
        ("", 400, texts.TOKEN_MISSING),
        ("guessed", 401, texts.TOKEN_REJECTED),
        ("tökén", 400, texts.TOKEN_REJECTED),
        ("a\nb", 400, texts.TOKEN_REJECTED),
    ],
)
async def test_wrong_token_is_reported_in_the_page(
    app: Starlette, token: str, status: int, problem: str
) -> None:
    answer = await sign_in(app, token)
    assert answer.status == status
    assert problem in answer.body
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "/a\nb"]
)
async def test_sign_in_never_leads_to_another_site(app: Starlette, target: str) -> None:
    assert (await sign_in(app, "token-of-ann", target)).headers["location"] == "/"


async def test_target_is_no_markup_in_the_page(app: Starlette) -> None:
    answer = await request(app, "/sign-in?next=/%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    assert "<img" not in answer.body


async def test_large_body_is_refused(app: Starlette) -> None:
    assert (await sign_in(app, "x" * 20000)).status == 413


async def test_sign_out_ends_the_session_and_removes_the_cookie(
    app: Starlette, store: SessionStore
) -> None:
    id = cookie(await sign_in(app, "token-of-ann"))
    answer = await request(app, "/sign-out", method="POST", cookie=f"c={id}")
    assert answer.headers["location"] == "/sign-in"
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert store.find(id) is None


async def test_page_is_left_at_once_if_no_token_is_needed(app: Starlette, server: FakeServer) -> None:
    server.callers.by_token.clear()
    answer = await request(app, "/sign-in?next=/models")
    assert (answer.status, answer.headers["location"]) == (303, "/models")
