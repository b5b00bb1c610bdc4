# SPDX-License-Identifier: Apache-2.0
"""Sessions of the console in a real browser, against a running stack."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import RunningStack
from tests.support.browser import Window, console, window
from tests.support.processes import stop, wait_for_file
from tests.support.redis_server import Authority
from tests.support.reverse_proxy import reverse_proxy

from blemish_client import Client
from blemish_client.errors import Unauthenticated
from blemish_client.transport.credentials import Credentials
from blemish_console import texts
from blemish_server.auth import access
from blemish_server.auth.access import Role


class Guarded:
    """A server of the stack with an access file, and a console of it."""

    def __init__(self, address: str, url: str, callers: Path) -> None:
        self.address = address
        self.url = url
        self.callers = callers

    def grant(self, name: str, role: Role) -> str:
        """Return the token of a new caller, once the server accepts it."""
        token = access.grant(self.callers, name, role)
        with Client(self.address, credentials=Credentials(token)) as client:
            for _ in range(50):
                if _is_accepted(client):
                    return token
        raise AssertionError(f"the token of {name} was not accepted")

    def sign_in(self, opened: Window, token: str) -> None:
        opened.page.fill("#token", token)
        opened.page.click("button[type=submit]")


def _is_accepted(client: Client) -> bool:
    try:
        client.server_info()
    except Unauthenticated:
        time.sleep(0.1)
        return False
    return True


@pytest.fixture(scope="module")
def guarded(
    stack: RunningStack, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded-console")
    callers, ready, log = folder / "callers.json", folder / "ready", folder / "server.log"
    access.grant(callers, "first", Role.CAMERA)
    script = (stack.data / "run/environment.sh").read_text()
    parts = dict(word.partition("=")[::2] for word in shlex.split(script) if "=" in word)
    own = {
        "BLEMISH_LISTEN": "127.0.0.1:0",
        "BLEMISH_PRELOAD": "false",
        "BLEMISH_READY_FILE": str(ready),
        "BLEMISH_ACCESS_FILE": str(callers),
    }
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "blemish_server"],
            env=os.environ | parts | own,
            stdout=written,
            stderr=written,
        )
    try:
        wait_for_file(ready, process)
        found = re.search(r'"address": "(127\.0\.0\.1:\d+)"', log.read_text())
        assert found
        with console(found[1], folder / "console") as url:
            yield Guarded(found[1], url, callers)
    finally:
        stop(process)


def test_console_asks_for_a_token_and_shows_the_role(
    guarded: Guarded, opened: Window, tile_model: str
) -> None:
    token = guarded.grant("ann", Role.SERVICE)
    opened.page.goto(f"{guarded.url}/models?version=tile/1")
    guarded.sign_in(opened, "guessed")
    opened.shows(texts.TOKEN_REJECTED)
    guarded.sign_in(opened, token)
    opened.shows("ann (service)")
    opened.shows(texts.FIGURES)
    assert opened.page.get_by_role("button", name=texts.PIN).count() == 0
    opened.page.locator(".bl-threshold").wait_for()
    for role, name in (
        ("button", texts.CALIBRATE),
        ("button", texts.IMPORT_MODEL),
        ("link", texts.EXPORT_MODEL),
    ):
        assert opened.page.get_by_role(role, name=name).count() == 0
    opened.page.goto(f"{guarded.url}/data/image?dataset=tile&path=test/crack/000.png")
    opened.shows(texts.DATA_MASK_READER)
    assert opened.page.get_by_role("button", name=texts.DATA_MASK_SAVE).count() == 0
    assert opened.page.get_by_role("button", name=texts.DRAW_TOOLS["brush"]).count() == 0
    opened.page.goto(f"{guarded.url}/system")
    opened.shows(texts.AUDIT_FOR_OPERATORS)
    opened.page.goto(f"{guarded.url}/review?model=tile")
    opened.shows(texts.SUMMARY)
    assert opened.page.get_by_role("button", name=texts.LEARN).count() == 0


def test_token_never_reaches_the_page(guarded: Guarded, opened: Window) -> None:
    token = guarded.grant("carol", Role.OPERATOR)
    received: list[str] = []
    opened.page.on(
        "websocket", lambda socket: socket.on("framereceived", lambda data: received.append(data))
    )
    opened.page.goto(f"{guarded.url}/system")
    guarded.sign_in(opened, token)
    opened.shows("carol (operator)")
    opened.shows(texts.CALLERS)
    assert opened.page.evaluate("document.cookie") == ""
    storage = opened.page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert token not in storage + opened.page.content()
    assert not any(token in str(each) for each in received)
    [cookie] = [
        each for each in opened.page.context.cookies() if each["name"].startswith("blemish_console")
    ]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert token not in cookie["value"]


def test_operator_may_change_models(guarded: Guarded, opened: Window, tile_model: str) -> None:
    opened.page.goto(f"{guarded.url}/models?version=tile/1")
    guarded.sign_in(opened, guarded.grant("dan", Role.OPERATOR))
    opened.page.get_by_role("button", name=texts.PIN, exact=True).click()
    opened.shows(texts.WAS_PINNED.format(version="tile/1"))
    opened.page.get_by_role("button", name=texts.UNPIN).click()
    opened.shows(texts.WAS_UNPINNED.format(version="tile/1"))
    opened.page.goto(f"{guarded.url}/system")
    opened.shows("PinModel")
    assert opened.page.locator("tr", has_text="dan").count() >= 2


def test_revoked_token_ends_the_session_in_an_open_page(guarded: Guarded, opened: Window) -> None:
    opened.page.goto(f"{guarded.url}/system")
    guarded.sign_in(opened, guarded.grant("eve", Role.SERVICE))
    opened.shows("eve (service)")
    access.revoke(guarded.callers, "eve")
    opened.shows(texts.SESSION_ENDED)


def test_sign_out_ends_the_session_in_every_tab(guarded: Guarded, opened: Window) -> None:
    opened.page.goto(f"{guarded.url}/system")
    guarded.sign_in(opened, guarded.grant("fay", Role.SERVICE))
    opened.shows("fay (service)")
    other = opened.page.context.new_page()
    other.goto(f"{guarded.url}/models")
    other.get_by_text("fay (service)").wait_for()
    opened.page.get_by_role("button", name=texts.SIGN_OUT).click()
    opened.page.wait_for_selector("#token")
    other.get_by_text(texts.SESSION_ENDED).wait_for()


def test_console_with_tls_signs_in_and_logs_the_caller(
    guarded: Guarded, browser: Any, tmp_path: Path
) -> None:
    own = Authority.create(tmp_path / "tls")
    options = ("--certificate", str(own.chain), "--key", str(own.key))
    token = guarded.grant("gus", Role.SERVICE)
    with (
        console(guarded.address, tmp_path, *options) as url,
        window(browser, ignore_https_errors=True) as opened,
    ):
        assert url.startswith("https://")
        opened.page.goto(f"{url}/system?from=gus")
        guarded.sign_in(opened, token)
        opened.shows("gus (service)")
        opened.shows(texts.HEALTH)
        [cookie] = opened.page.context.cookies()
        assert cookie["secure"]
        assert cookie["httpOnly"]
    log = (tmp_path / "console.log").read_text()
    assert "127.0.0.1 - POST /sign-in 303" in log
    assert "127.0.0.1 gus GET /system 200" in log
    assert token not in log


@pytest.mark.parametrize("keeps_path", [False, True])
def test_console_works_behind_a_reverse_proxy_with_tls(
    guarded: Guarded, browser: Any, tile_model: str, tmp_path: Path, keeps_path: bool
) -> None:
    own = Authority.create(tmp_path / "tls")
    with (
        reverse_proxy("/line/blemish", keeps_path=keeps_path, authority=own) as proxy,
        console(
            guarded.address, tmp_path, "--root-path", "/line/blemish", "--origin", proxy.origin
        ) as behind,
        window(browser, ignore_https_errors=True) as opened,
    ):
        proxy.serve(behind)
        page, url = opened.page, f"{proxy.origin}/line/blemish"
        page.goto(f"{url}/models?version=tile/1")
        guarded.sign_in(opened, guarded.grant(f"hal-{int(keeps_path)}", Role.SERVICE))
        opened.shows(texts.CONNECTED)
        assert page.url == f"{url}/models?version=tile/1"
        page.frame_locator("iframe").get_by_text("Training report").wait_for()
        page.get_by_role("link", name=texts.SYSTEM).click()
        opened.shows(texts.HEALTH)
        assert page.url == f"{url}/system"
        assert proxy.upgraded >= 2
        [cookie] = page.context.cookies()
        assert (cookie["path"], cookie["secure"]) == ("/line/blemish", True)
        page.get_by_role("button", name=texts.SIGN_OUT).click()
        page.wait_for_selector("#token")
        assert page.url.startswith(f"{url}/sign-in")


def test_session_expires_in_an_open_page_and_asks_for_the_token(
    guarded: Guarded, opened: Window, tmp_path: Path
) -> None:
    token = guarded.grant("ida", Role.SERVICE)
    with console(guarded.address, tmp_path, "--session-hours", "0.002") as url:
        opened.page.goto(f"{url}/system")
        guarded.sign_in(opened, token)
        opened.shows("ida (service)")
        opened.shows(texts.SESSION_ENDED)
        opened.page.goto(f"{url}/system")
        opened.page.wait_for_selector("#token")
        guarded.sign_in(opened, token)
        opened.shows("ida (service)")


def test_camera_sees_no_more_than_its_role_allows(guarded: Guarded, opened: Window) -> None:
    opened.page.goto(guarded.url)
    guarded.sign_in(opened, guarded.grant("line-3", Role.CAMERA))
    opened.shows(texts.HEALTH)
    assert opened.page.get_by_role("link", name=texts.MODELS).count() == 0
    opened.page.goto(f"{guarded.url}/models")
    opened.shows(texts.NOT_ALLOWED)
