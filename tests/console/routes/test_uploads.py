# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from fastapi import FastAPI
from tests.support.console import request

from blemish_console import texts
from blemish_console.routes.uploads import UploadRoutes
from blemish_console.session import BrowserSession


def app(session: BrowserSession | None) -> FastAPI:
    routes = UploadRoutes(lambda _: session)
    web = FastAPI()
    web.add_route("/plan", routes.plan(), ["POST"])
    web.add_route("/store", routes.store(), ["POST"])
    return web


@pytest.mark.parametrize("path", ["/plan", "/store"])
async def test_upload_without_a_session_is_refused(path: str) -> None:
    answer = await request(app(None), f"{path}?description=2", method="POST", body=b"{}")
    assert (answer.status, json.loads(answer.body)["error"]) == (401, texts.UPLOAD_SIGNED_OUT)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/plan", b"{}"),
        ("/plan?description=x", b"{}"),
        ("/plan?description=0", b"{}"),
        ("/plan?description=3", b"{}"),
        ("/plan?description=2", b"{}more"),
        ("/store?description=1000001", b"{}"),
        ("/store?description=2", b"{}"),
        ("/store?description=42", b'{"dataset": "t", "files": [["a", "", 3]]}\nabcd'),
    ],
)
async def test_malformed_upload_is_refused(shared_session: BrowserSession, path: str, body: bytes) -> None:
    assert (await request(app(shared_session), path, method="POST", body=body)).status == 400


async def test_request_above_the_limit_is_refused_without_keeping_it(
    shared_session: BrowserSession,
) -> None:
    body = b"{}" + bytes(65_000_000)
    answer = await request(app(shared_session), "/store?description=2", method="POST", body=body)
    assert (answer.status, "at most 65000000 bytes" in answer.body) == (400, True)


async def test_server_that_is_away_is_reported_so_that_the_browser_goes_on_later(
    shared_session: BrowserSession,
) -> None:
    text = b'{"dataset": "t", "files": [["train/good/a.png", "", 3]]}'
    path = f"/store?description={len(text)}"
    answer = await request(app(shared_session), path, method="POST", body=text + b"abc")
    assert answer.status == 502
    assert "127.0.0.1:1" in json.loads(answer.body)["error"]
