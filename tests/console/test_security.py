# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from tests.support.console import request

from blemish_console.security import Guard, OriginPolicy
from blemish_console.session import BrowserSession

OWN = "http://127.0.0.1:8080"
SOCKET = "/_nicegui_ws/socket.io/"


def policy(*origins: str) -> OriginPolicy:
    return OriginPolicy(origins, names={"linepc"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the paths, or accept the socket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept", "status": 101})
        return
    prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode()
    text = f"{scope['root_path']} {scope['path']} {prefix}"
    await PlainTextResponse(text)(scope, receive, send)


def guard(*origins: str, root_path: str = "", session: BrowserSession | None = None) -> Guard:
    return Guard(echo, policy(*origins), lambda _: session, cookie="c", root_path=root_path)


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("LocalHost.", True),
        ("[::1]:8080", True),
        ("10.0.0.7", True),
        ("linepc:8080", True),
        ("line.example.com", True),
        # A name of another site that resolves to this machine.
        ("rebound.evil.example:8080", False),
        ("line.example.com:8080", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_hosts_are_accepted_by_address_and_by_known_name(host: str, accepted: bool) -> None:
    assert policy("https://line.example.com").accepts_host(host) is accepted


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        (OWN, True),
        ("https://line.example.com", True),
        ("http://127.0.0.1:8081", False),
        ("http://localhost:8080", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
        ("file://127.0.0.1:8080", False),
    ],
)
def test_origins_are_accepted_if_they_are_the_host_or_named(origin: str, accepted: bool) -> None:
    assert policy("https://line.example.com").accepts_origin(origin, "127.0.0.1:8080") is accepted


@pytest.mark.parametrize(
    "text", ["line.example.com", "ftp://line", "https://line/path", "https://", "https://u@line"]
)
def test_malformed_origin_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin; give one such as"):
        policy(text)


async def test_page_of_another_site_cannot_post() -> None:
    for origin in ("https://evil.example", "null"):
        assert (await request(guard(), "/sign-out", method="POST", origin=origin)).status == 403
    assert (await request(guard(), "/sign-out", method="POST")).status == 403
    assert (await request(guard(), "/sign-out", method="POST", origin=OWN)).status == 200


async def test_upload_needs_a_session_and_a_stated_bounded_length(shared_session: BrowserSession) -> None:
    signed_in, path = guard(session=shared_session), "/_nicegui/client/1/upload/2"
    for length, status in (("65000000", 200), ("65000001", 403), ("-1", 403)):
        answer = await request(signed_in, path, method="POST", origin=OWN, content_length=length)
        assert answer.status == status, length
    chunked = await request(signed_in, path, method="POST", origin=OWN, transfer_encoding="chunked")
    assert chunked.status == 403
    assert (await request(guard(), path, method="POST", origin=OWN)).status == 403


async def test_socket_needs_the_origin_of_the_console_and_a_session(shared_session: BrowserSession) -> None:
    signed_in = guard(session=shared_session)
    assert (await request(signed_in, SOCKET, kind="websocket", origin=OWN)).status == 101
    assert (await request(signed_in, SOCKET, kind="websocket", origin="https://evil.example")).status == 0
    assert (await request(signed_in, SOCKET, kind="websocket")).status == 0
    assert (await request(guard(), SOCKET, kind="websocket", origin=OWN)).status == 0


async def test_socket_is_not_polled_without_an_origin(shared_session: BrowserSession) -> None:
    signed_in = guard(session=shared_session)
    assert (await request(signed_in, SOCKET)).status == 403
    assert (await request(signed_in, SOCKET, origin=OWN)).status == 403


async def test_name_of_another_site_that_resolves_here_is_refused() -> None:
    assert (await request(guard(), "/system", host="evil.example")).status == 403


async def test_other_sites_link_to_pages_but_embed_nothing() -> None:
    page = await request(guard(), "/system", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    image = await request(
        guard(), "/images/m/items/1", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"
    )
    assert (page.status, image.status) == (200, 403)


@pytest.mark.parametrize("path", ["/system", "/blemish/system"])
async def test_proxy_may_remove_the_root_path_or_keep_it(path: str) -> None:
    answer = await request(guard(root_path="/blemish"), path)
    assert answer.body == "/blemish /blemish/system "


async def test_prefix_of_a_request_is_ignored() -> None:
    answer = await request(guard(), "/system", x_forwarded_prefix="/evil")
    assert answer.body == " /system "


async def test_answers_forbid_frames_and_scripts_of_other_sites() -> None:
    page = await request(guard(), "/system")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    report = await request(guard(), "/reports/models/tile/versions/1")
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "default-src 'none'" in report.headers["content-security-policy"]


async def test_log_names_the_caller(caplog: pytest.LogCaptureFixture, ann: BrowserSession) -> None:
    caplog.set_level(logging.INFO, "blemish_console.access")
    await request(guard(session=ann), "/system?token=secret")
    assert caplog.messages == ["127.0.0.1 ann GET /system 200"]


@pytest.mark.parametrize(("path", "status"), [("/imports", 200), ("/sign-in", 403)])
async def test_only_an_import_may_have_a_large_body(path: str, status: int) -> None:
    answer = await request(guard(), path, method="POST", origin=OWN, content_length=str(1 << 30))
    assert answer.status == status
