# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser, against a running stack."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from tests.integration.conftest import RunningStack, Start
from tests.support.browser import Window, chromium, console, window
from tests.support.processes import stop, wait_for_file
from tests.support.redis_server import Authority
from tests.support.relay import Relay
from tests.support.reverse_proxy import reverse_proxy

from blemish.v1.job_pb2 import PatchCore
from blemish.v1.search_pb2 import (
    LABEL_CONFIRMED,
    LABEL_FALSE_ALARM,
    LABEL_GOOD,
    LABEL_NONE,
    LABEL_UNSPECIFIED,
)
from blemish_client import Client, Frame, Label, Store, StreamPolicy
from blemish_client.demo.surfaces import generate
from blemish_client.errors import NotFound, Unauthenticated
from blemish_client.names import short
from blemish_client.transport.credentials import Credentials
from blemish_console import texts, theme
from blemish_console.formats import number, when
from blemish_server.auth import access
from blemish_server.auth.access import Role

MARKUP = "<img src=x onerror=\"document.title='taken over'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Window]:
    with window(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(stack: RunningStack, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a console of the stack, which has no access file."""
    with console(stack.address, tmp_path_factory.mktemp("console")) as url:
        yield url


def test_system_shows_every_part_of_the_stack(url: str, opened: Window, tile_model: str) -> None:
    opened.page.goto(f"{url}/system")
    for text in (texts.HEALTH, "Redis", "Qdrant", texts.DISK, "worker ", "indexed images", "ImportDataset"):
        opened.shows(text)
    # The entries of other tests below may have failed.
    health = opened.page.locator(".bl-card", has_text=texts.HEALTH)
    assert health.locator(".bl-chip-good").count() >= 5
    assert health.locator(".bl-chip-bad").count() == 0
    assert texts.CONNECTED in opened.text()


def test_names_of_cameras_are_never_markup(
    url: str, opened: Window, client: Client, tile_model: str
) -> None:
    image = client.dataset_image("tile", "train/good/000.png").content

    is_seen = threading.Event()

    def frames() -> Iterator[bytes]:
        yield image
        is_seen.wait(60)

    with ThreadPoolExecutor(1) as pool:
        scored = pool.submit(lambda: list(client.stream(frames(), "tile", camera=MARKUP)))
        opened.page.goto(f"{url}/system")
        opened.shows(MARKUP)
        is_seen.set()
        assert len(scored.result(60)) == 1
    assert opened.page.title() == f"{texts.SYSTEM} · {texts.TITLE}"


def test_version_is_shown_with_its_report_and_promoted_after_a_question(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    client.export_model(tile_model, tmp_path / "tile.blemish")
    imported = client.import_model(tmp_path / "tile.blemish", model_id="console")
    opened.page.goto(f"{url}/models")
    opened.page.get_by_text("console/1", exact=True).click()
    opened.shows(texts.FIGURES)
    report = opened.page.frame_locator("iframe")
    report.get_by_text("Training report").wait_for()
    opened.page.get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.shows(texts.CONFIRM_PROMOTION.format(version="console/1"))
    opened.page.get_by_role("button", name=texts.CANCEL).click()
    opened.hides(texts.CONFIRM_PROMOTION.format(version="console/1"))
    assert not client.model(imported.name).production
    opened.page.get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.page.get_by_role("dialog").get_by_role("button", name=texts.PROMOTE, exact=True).click()
    opened.shows(texts.PROMOTED.format(version="console/1"))
    assert client.model(imported.name).production
    client.delete_model("console", force=True)


@pytest.fixture
def copied_model(client: Client, tile_model: str, tmp_path: Path) -> Iterator[str]:
    """Import a version of its own, keep eight frames of it, and return its name."""
    file = tmp_path / "tile.blemish"
    client.export_model(tile_model, file)
    version = client.import_model(file, model_id="moved").name
    generate(tmp_path / "frames", "tile", seed=92, train=1, good=4, defective=4, size=128)
    images = [path.read_bytes() for path in sorted((tmp_path / "frames/test").rglob("*.png"))]
    list(client.stream(images, version, camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
    for _ in range(100):
        with suppress(NotFound):  # the first frame creates the index
            if client.count_items(version, where="source = camera") == len(images):
                break
        time.sleep(0.1)
    yield version
    client.delete_model("moved", force=True)


def test_dragged_threshold_shows_its_effect_and_is_put_into_force(
    url: str, opened: Window, client: Client, copied_model: str
) -> None:
    page = opened.page
    before = client.model(copied_model).calibration
    scores = client.scores(copied_model)
    kept = [item.score for item in client.items(copied_model, where="source = camera")]
    page.goto(f"{url}/models?version=moved/1")
    line = page.locator(".bl-threshold")
    line.wait_for()
    line.evaluate("line => line.scrollIntoView({block: 'center'})")
    assert page.get_by_role("button", name=texts.CALIBRATE).is_disabled()
    box, area = line.bounding_box(), page.locator(".bl-histogram-area").bounding_box()
    at = box["x"] + box["width"] / 2
    page.mouse.move(at, area["y"] + 40)
    page.mouse.down()
    page.mouse.move(at + 20, area["y"] + 40, steps=4)
    page.mouse.move(area["x"] + 2, area["y"] + 40, steps=6)
    opened.shows(f"would become {texts.ANOMALOUS}")  # while the button of the mouse is still pressed
    page.mouse.up()
    moved = float(line.get_attribute("aria-valuenow"))
    assert moved < min(scores.held_out)
    flips = sum(moved < score <= before.threshold for score in kept)
    opened.shows(f"{flips} of {len(kept)} frames kept")
    assert page.locator(".bl-flip").count() == flips
    assert page.locator(".bl-flip img").first.evaluate("image => image.decode().then(() => true)")
    page.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(f"it rejects all {len(scores.held_out)} held-out good images")
    page.get_by_role("button", name=texts.CANCEL).click()
    page.get_by_label(texts.TARGET_FIELD_PERCENT).fill("60")
    page.keyboard.press("Enter")
    opened.shows(texts.NOT_A_TARGET.format(text="60"))
    page.get_by_label(texts.TARGET_FIELD_PERCENT).fill("20")
    page.keyboard.press("Enter")
    opened.hides(texts.NOT_A_TARGET.format(text="60"))
    line.press("ArrowRight")
    page.wait_for_function(
        "moved => Number(document.querySelector('.bl-threshold').ariaValueNow) > moved", arg=moved
    )
    wanted = (sorted(scores.held_out)[-2] + sorted(scores.held_out)[-1]) / 2
    page.get_by_label(texts.THRESHOLD_FIELD, exact=True).fill(str(wanted))
    page.keyboard.press("Enter")
    found = page.locator("tr", has_text=texts.HELD_OUT_ABOVE)
    found.get_by_text(texts.OF.format(count=1, of=len(scores.held_out))).last.wait_for()
    for name, each in scores.by_class.items():
        row = texts.TEST_GOOD_ABOVE if name == "good" else texts.CLASS_FOUND.format(name=name)
        above = sum(score > wanted for score in each)
        cell = page.locator("tr", has_text=row).locator("td").last
        assert cell.inner_text() == texts.OF.format(count=above, of=len(each))
    page.get_by_role("button", name=texts.CALIBRATE).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(texts.COMMENT).fill(MARKUP)
    dialog.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(texts.NAME_MISSING)
    dialog.get_by_label(texts.NAME).fill("maria")
    dialog.get_by_role("button", name=texts.CALIBRATE).click()
    opened.shows(texts.CALIBRATED.format(version="moved/1"))
    after = client.model(copied_model).calibration
    assert after.threshold == pytest.approx(wanted)
    assert (after.author, after.comment, after.revision) == ("maria", MARKUP, before.revision + 1)
    opened.shows(MARKUP)


def test_frames_on_which_a_shadow_differs_are_shown(
    url: str, opened: Window, client: Client, copied_model: str
) -> None:
    client.promote(copied_model, keep_target=False)
    small = PatchCore(input_size=64, coreset_ratio=0.05)
    job = client.wait(client.train("tile", model_id="moved", detector=small))
    shadow = job.result.model_version
    client.update_calibration(shadow, author="a test", threshold=0.0, acknowledge_extreme=True)
    client.shadow(shadow)
    opened.page.goto(f"{url}/models?version={short(shadow)}")
    opened.shows(texts.NOTHING_COMPARED)
    frame = client.dataset_image("tile", "test/good/000.png").content
    for _ in range(100):
        client.score(frame, "moved", camera=MARKUP)
        if client.model(shadow).comparison.disagreements:
            break
        time.sleep(0.1)
    time.sleep(1)  # the newest image may still be compared
    comparison = client.model(shadow).comparison
    opened.page.wait_for_function(
        "count => document.querySelectorAll('a.bl-hit').length === count",
        arg=len(comparison.disagreements),
    )
    found = comparison.disagreements[-1]
    card = opened.page.locator(".bl-card", has_text=texts.DIFFERENCES)
    card.get_by_text(number(found.shadow_score)).first.wait_for()
    assert MARKUP in card.inner_text()
    hit = card.locator("a.bl-hit").last
    assert number(found.production_score) in hit.inner_text()
    assert hit.locator(".bl-chip-bad").count() == hit.locator(".bl-chip-good").count() == 1
    opened.page.wait_for_function(
        "[...document.querySelectorAll('a.bl-hit img')].some(image => image.naturalWidth)"
    )
    hit.click()
    opened.page.wait_for_url(f"**/search?{urlencode({'model': short(copied_model)})}&item=items*")


def test_exported_version_is_imported_under_another_name(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    page = opened.page
    page.goto(f"{url}/models?version=tile/1")
    with page.expect_download() as download:
        page.get_by_role("link", name=texts.EXPORT_MODEL).click()
    assert download.value.suggested_filename == "tile-1.blemish"
    file = tmp_path / "tile.blemish"
    download.value.save_as(file)
    client.export_model(tile_model, tmp_path / "same.blemish")
    assert file.read_bytes() == (tmp_path / "same.blemish").read_bytes()
    page.get_by_role("button", name=texts.IMPORT_MODEL).click()
    damaged = tmp_path / "damaged.blemish"
    damaged.write_bytes(file.read_bytes()[:-20_000] + bytes(20_000))
    for name, content, reason in (
        (MARKUP, file, "is not a valid id"),
        ("imported-here", damaged, "damaged in transit"),
    ):
        page.get_by_label(texts.IMPORT_AS).fill(name)
        page.set_input_files("input[type=file]", str(content))
        page.get_by_role("alert").get_by_text(reason).wait_for()
    page.set_input_files("input[type=file]", str(file))
    # The server loads the version in a process of its own, which takes long on a busy machine.
    done = page.get_by_text(texts.IMPORTED.format(version="imported-here/1"))
    done.wait_for(timeout=120_000)
    page.wait_for_selector(".bl-threshold")
    card = client.model("imported-here/1")
    assert card.training["imported from"] == client.model(tile_model).name
    assert not card.production
    client.delete_model("imported-here", force=True)


def test_box_on_an_uploaded_image_finds_the_place_and_the_neighbours_of_a_hit(
    url: str, opened: Window, client: Client, tile_model: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{MARKUP.replace('/', '')}.png"
    file.write_bytes(client.dataset_image("tile", "test/crack/000.png").content)
    page = opened.page
    page.goto(f"{url}/search?model=tile")
    opened.shows(texts.SEARCH_START)
    page.set_input_files("input[type=file]", str(file))
    opened.shows(texts.SEARCH_COUNT.format(count=14))
    assert page.locator(".bl-hit-match").count() == 0
    page.wait_for_function("document.querySelector('.bl-draw > img')?.naturalWidth > 0")
    picture = page.locator(".bl-draw > img").bounding_box()
    left, top, width, height = (picture[name] for name in ("x", "y", "width", "height"))
    page.mouse.move(left + width * 0.2, top + height * 0.2)
    page.mouse.down()
    page.mouse.move(left + width * 0.7, top + height * 0.7, steps=5)
    page.mouse.up()
    page.locator(".bl-hit-match svg").first.wait_for()
    page.get_by_label(texts.SEARCH_WHERE).fill('clas = "crack"')
    page.keyboard.press("Enter")
    opened.shows("did you mean class?")
    assert page.locator(".bl-fault").inner_text().endswith("\n  ^")
    page.get_by_label(texts.SEARCH_WHERE).fill("")
    page.keyboard.press("Enter")
    page.get_by_label(texts.SEARCH_CLASS).click()
    page.get_by_role("option", name="oil", exact=True).click()
    page.wait_for_function(
        """() => {
            const hits = [...document.querySelectorAll('.bl-hit')];
            return hits.length && hits.every(hit => /oil/.test(hit.innerText));
        }"""
    )
    assert page.get_by_label(texts.SEARCH_WHERE).input_value() == 'class = "oil"'
    page.locator(".bl-hit").first.click()
    page.wait_for_url("**/search?model=tile&item=items*")
    opened.shows("tile: test/oil/")
    opened.shows("hits, the most similar first")
    assert page.get_by_label(texts.SEARCH_WHERE).input_value() == 'class = "oil"'
    assert page.title() == f"{texts.SEARCH} · {texts.TITLE}"


def test_file_that_is_not_an_image_is_refused_in_the_page(
    url: str, opened: Window, tile_model: str, tmp_path: Path
) -> None:
    file = tmp_path / "notes.png"
    file.write_text("not an image")
    opened.page.goto(f"{url}/search?model=tile")
    opened.page.set_input_files("input[type=file]", str(file))
    opened.shows("the file cannot be read as an image")


def test_unknown_version_is_reported_in_the_page(url: str, opened: Window, tile_model: str) -> None:
    opened.page.goto(f"{url}/models?version=tile/99")
    opened.shows(texts.FAILED)
    opened.shows(texts.TRY_AGAIN)


def test_choice_of_dark_is_kept(url: str, opened: Window) -> None:
    opened.page.goto(f"{url}/system")
    opened.page.get_by_role("button", name=texts.LIGHT_OR_DARK).click()
    opened.page.wait_for_selector("body.body--dark")
    opened.page.goto(f"{url}/models")
    opened.page.wait_for_selector("body.body--dark")


def test_console_works_below_a_path(
    stack: RunningStack, opened: Window, tmp_path: Path, tile_model: str
) -> None:
    with console(stack.address, tmp_path, "--root-path", "/line/blemish") as url:
        assert url.endswith("/line/blemish")
        opened.page.goto(url)
        opened.page.get_by_role("link", name=texts.SYSTEM).click()
        opened.shows("Qdrant")
        assert opened.page.url == f"{url}/system"
        opened.page.get_by_role("link", name=texts.MODELS).click()
        opened.page.get_by_text("tile/1", exact=True).first.click()
        opened.page.frame_locator("iframe").get_by_text("Training report").wait_for()


def test_restart_of_the_server_is_announced_and_the_missing_parts_are_named(
    address: str, start: Start, opened: Window, tmp_path: Path
) -> None:
    server = start()  # its Redis and Qdrant are unreachable
    with console(address, tmp_path) as url:
        opened.page.goto(f"{url}/system")
        opened.shows(texts.UNAVAILABLE)
        for name, tone in (
            ("Redis", "bad"),
            ("Qdrant", "bad"),
            (texts.SERVER, "good"),
            (texts.DISK, "good"),
        ):
            row = opened.page.locator("tr", has=opened.page.get_by_text(name, exact=True))
            assert row.locator(f".bl-chip-{tone}").count() == 1
        server.send_signal(signal.SIGKILL)
        server.wait()
        opened.shows(texts.DISCONNECTED)
        opened.shows(f"The server at {address} does not answer.")
        start()
        opened.shows(texts.CONNECTED)
        opened.hides(f"The server at {address} does not answer.")


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


@pytest.fixture(scope="module")
def kept_frames(
    stack: RunningStack, tile_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """Keep four frames of a camera whose name is markup, and return their names, the newest first."""
    folder = tmp_path_factory.mktemp("frames")
    generate(folder, "tile", seed=91, train=4, good=1, defective=1, size=128)
    images = [path.read_bytes() for path in sorted((folder / "train/good").glob("*.png"))]
    with Client(stack.address) as client:
        list(client.stream(images, "tile", camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
        where = f"source = camera AND camera = {_quoted(MARKUP)}"
        found: list[str] = []
        for _ in range(100):
            found = [item.item for item in client.items("tile", where=where, order_by="time desc")]
            if len(found) == len(images):
                break
            time.sleep(0.1)
        assert len(found) == len(images)
        yield found
        for item in found:  # other tests count the labels of this model
            client.label(item, "tile", Label.NONE)


def test_line_shows_the_last_verdict_of_each_camera(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    # Other tests have streamed from more cameras than the page shows at once.
    opened.page.goto(f"{url}/line?{urlencode({'camera': MARKUP})}")
    opened.shows(MARKUP)
    opened.page.get_by_label(texts.CAMERA_FILTER).fill("Line-")
    opened.shows(texts.NO_CAMERA_MATCHES)
    image = client.item_image(kept_frames[0], "tile").content
    for camera in ("line-left", "line-right"):
        scored = client.score(image, "tile", camera=camera)
        tile = opened.page.locator(".bl-tile", has_text=camera)
        tile.get_by_text(theme.verdict_sign(scored.verdict).word, exact=True).first.wait_for()
        tile.locator("img").wait_for()
        tile.get_by_text(number(scored.score), exact=True).wait_for()
    assert opened.page.locator(".bl-tile").count() == 2
    opened.page.reload()
    opened.shows("line-right")
    assert opened.page.locator(".bl-tile").count() == 2


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def test_frames_are_labelled_by_keys_undone_and_summarized(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    query = urlencode({"model": "tile", "show": "all", "camera": MARKUP})
    opened.page.goto(f"{url}/review?{query}")
    opened.shows("1 of 4")
    opened.page.wait_for_selector(".bl-image")
    opened.page.keyboard.press("f")
    opened.shows("2 of 4")
    opened.page.get_by_label(texts.DEFECT_CLASS).fill(MARKUP)
    opened.page.keyboard.press("Enter")
    opened.page.locator(".bl-picture").click()
    opened.page.keyboard.press("d")
    opened.shows("3 of 4")
    opened.page.keyboard.press("g")
    opened.shows("4 of 4")
    labels = [client.item(item, "tile") for item in kept_frames]
    assert [each.label for each in labels[:3]] == [LABEL_FALSE_ALARM, LABEL_CONFIRMED, LABEL_GOOD]
    assert labels[1].label_class == MARKUP
    opened.shows(texts.CONFIRMED_AS.format(name=MARKUP))
    opened.page.keyboard.press("z")
    opened.shows("3 of 4")
    assert client.item(kept_frames[2], "tile").label in (LABEL_NONE, LABEL_UNSPECIFIED)
    opened.page.get_by_role("button", name=texts.SUMMARY).click()
    opened.shows("4 kept frames")
    opened.shows(MARKUP)
    assert opened.page.title() == f"{texts.SUMMARY} · {texts.TITLE}"


def test_neighbour_of_a_frame_has_label_camera_and_time_and_leads_to_its_own(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    query = urlencode({"model": "tile", "show": "all", "camera": MARKUP})
    expected = list(client.search(kept_frames[0], "tile", 6))
    client.label(expected[0].item, "tile", Label.CONFIRMED, "dent")
    opened.page.goto(f"{url}/review?{query}")
    neighbours = opened.page.locator(".bl-neighbour")
    neighbours.first.wait_for()
    assert neighbours.count() == len(expected)
    text = neighbours.first.inner_text()
    client.label(expected[0].item, "tile", Label.NONE)
    for part in (texts.CONFIRMED_AS.format(name="dent"), expected[0].camera, when(expected[0].time)):
        assert part in text
    neighbours.first.click()
    opened.shows("hits, the most similar first")
    assert quote_plus(expected[0].item) in opened.page.url


def test_label_of_another_person_is_shown_and_stays(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    newest = kept_frames[0]
    client.label(newest, "tile", Label.NONE)
    opened.page.goto(f"{url}/review?{urlencode({'model': 'tile', 'show': 'all', 'camera': MARKUP})}")
    opened.shows("1 of 4")
    opened.page.wait_for_selector(".bl-image")
    client.label(newest, "tile", Label.GOOD)
    opened.page.keyboard.press("f")
    opened.shows(texts.LABELLED_MEANWHILE)
    assert client.item(newest, "tile").label == LABEL_GOOD


def test_many_frames_are_labelled_at_once(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    opened.page.goto(f"{url}/review?{urlencode({'model': 'tile', 'show': 'all', 'camera': MARKUP})}")
    opened.page.get_by_role("button", name=texts.SELECT_ALL).click()
    opened.shows(texts.SELECTED.format(count=4))
    opened.page.locator(".bl-card", has_text=texts.QUEUE).get_by_role(
        "button", name=texts.GOOD
    ).last.click()
    opened.shows(texts.BULK_DONE.format(count=4))
    assert {client.item(item, "tile").label for item in kept_frames} == {LABEL_GOOD}


@pytest.fixture
def labelled_model(
    client: Client, tile_model: str, kept_frames: list[str], tmp_path: Path
) -> Iterator[str]:
    """Return a copy of the model, in production, with three labelled frames of a camera named by markup."""
    client.export_model(tile_model, tmp_path / "tile.blemish")
    version = client.import_model(tmp_path / "tile.blemish", model_id="learned").name
    client.promote(version)
    frames = [client.item_image(item, "tile").content for item in kept_frames[:3]]
    list(client.stream(frames, "learned", camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
    give_up = time.monotonic() + 20
    while len(items := _items(client, "learned")) < len(frames):
        assert time.monotonic() < give_up, "no frames were kept"
        time.sleep(0.1)
    for item, label in zip(items, (Label.FALSE_ALARM, Label.FALSE_ALARM, Label.GOOD), strict=True):
        client.label(item, "learned", label)
    yield version
    client.delete_model("learned", force=True)


def _items(client: Client, model: str) -> list[str]:
    try:
        return [item.item for item in client.items(model)]
    except NotFound:
        return []


def test_labels_are_learned_after_a_question_and_the_version_becomes_the_shadow(
    url: str, opened: Window, client: Client, labelled_model: str
) -> None:
    page = opened.page
    page.goto(f"{url}/review?model=learned&show=all")
    page.get_by_role("button", name=texts.LEARN).click()
    opened.shows(texts.CONFIRM_LEARN.format(count=2, good=1))
    dialog = page.get_by_role("dialog")
    assert dialog.locator("tbody td").all_inner_texts() == [MARKUP, "2", "1"]
    assert "A training on tile (" in dialog.inner_text()
    dialog.get_by_role("button", name=texts.CANCEL).click()
    opened.hides(texts.CONFIRM_LEARN.format(count=2, good=1))
    assert not any(job.train.false_alarms_of for job in client.jobs() if job.train.model_id == "learned")
    page.get_by_role("button", name=texts.LEARN).click()
    dialog.get_by_role("button", name=texts.START_TRAINING).click()
    opened.shows(texts.LEARNING)
    job = next(job for job in client.jobs() if job.train.model_id == "learned")
    assert client.wait(job).error == ""
    offered = texts.OFFER_NEW.format(version="learned/2")
    opened.shows(offered)
    page.reload()
    opened.shows(offered)
    page.get_by_role("button", name=texts.START_SHADOW).click()
    opened.shows(texts.OFFER_SHADOW.format(version="learned/2", production="learned/1"))
    assert client.model("learned/2").shadow
    page.get_by_role("link", name=texts.SHOW_JOB).click()
    opened.shows(texts.OFFER_SHADOW.format(version="learned/2", production="learned/1"))


def test_two_versions_are_compared_after_the_missing_evaluation(
    url: str, opened: Window, client: Client, stack: RunningStack, tile_model: str, tmp_path: Path
) -> None:
    page, first = opened.page, short(tile_model)
    client.import_dataset("compared", str(stack.surfaces / "tile"))
    file = tmp_path / "tile.blemish"
    client.export_model(tile_model, file)
    client.import_model(file, model_id="strict")
    threshold = client.model(tile_model).calibration.threshold
    client.update_calibration("strict/1", threshold=0.8 * threshold, author="ann", acknowledge_extreme=True)
    page.goto(f"{url}/compare?a={first}&b={first}")
    opened.shows(texts.COMPARE_TWO)
    page.goto(f"{url}/compare?a={first}&b=strict/1&dataset=compared")
    versions = f"{first}{texts.AND}strict/1"
    opened.shows(texts.COMPARE_UNMEASURED.format(versions=versions, dataset="compared"))
    page.get_by_role("button", name=texts.EVALUATE.format(versions=versions, dataset="compared")).click()
    opened.shows(texts.EVALUATION_RUNS)
    page.get_by_text(texts.DIFFERING_IMAGES).wait_for(timeout=60_000)
    found = client.compare(tile_model, "strict/1", dataset="compared")
    assert [each.class_name for each in found.classes] == ["crack", "glue_strip", "oil", "rough"]
    assert [each.name for each in found.pixel_metrics] == ["pixel_auroc", "aupro"]
    rejected = found.rejected_only_by_second
    assert rejected
    opened.shows(f"{texts.REJECTED_ONLY_BY.format(version='strict/1')}: {len(rejected)}")
    shown = page.locator(".bl-compared .bl-hit", has_text=rejected[0].path)
    for text in (number(rejected[0].first_score), texts.NORMAL, texts.ANOMALOUS):
        assert text in shown.inner_text()
    assert shown.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    opened.shows(texts.AUPRO)
    client.delete_model("strict", force=True)
    client.delete_dataset("compared")


def test_closed_tab_ends_its_watch_on_the_server(
    stack: RunningStack, url: str, browser: Any, client: Client, kept_frames: list[str]
) -> None:
    client.score(client.item_image(kept_frames[0], "tile").content, "tile", camera="line-tabs")
    before = _watchers(stack)
    with window(browser) as opened:
        opened.page.goto(f"{url}/line?camera=line-tabs")
        _wait_for_watchers(stack, before + 1)
        other = opened.page.context.new_page()
        other.goto(f"{url}/line?camera=line-tabs")
        other.locator(".bl-tile", has_text="line-tabs").wait_for()
        opened.page.close()
        time.sleep(5)  # the console forgets a closed page after 3 s
        assert _watchers(stack) == before + 1, "the tabs of a session share a watch"
    _wait_for_watchers(stack, before)


def _watchers(stack: RunningStack) -> int:
    page = urlopen(f"http://{stack.metrics}/metrics", timeout=10).read().decode()
    found = re.search(r"^blemish_watchers (\d+)", page, re.MULTILINE)
    assert found
    return int(found[1])


def _wait_for_watchers(stack: RunningStack, count: int) -> None:
    give_up = time.monotonic() + 20
    while (found := _watchers(stack)) != count:
        assert time.monotonic() < give_up, f"{found} watchers"
        time.sleep(0.2)


def test_page_goes_on_after_its_socket_was_lost(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    image = client.item_image(kept_frames[0], "tile").content
    with Relay(url.removeprefix("http://")) as relay:
        opened.page.goto(f"http://{relay.address}/line?camera=line-")
        # All scripts of the page must have arrived before its connections are cut.
        client.score(image, "tile", camera="line-before")
        opened.page.locator(".bl-tile", has_text="line-before").locator("img").wait_for()
        opened.page.wait_for_load_state("networkidle")
        opened.page.evaluate("window.isSame = true")
        connections = relay.accepted
        relay.cut()
        client.score(image, "tile", camera="line-cut")
        opened.page.locator(".bl-tile", has_text="line-cut").wait_for()
        assert relay.accepted > connections
        assert opened.page.evaluate("window.isSame"), "it was loaded again"

        relay.silence()
        relay.cut()
        time.sleep(5)  # the console forgets the page after 3 s
        relay.resume()
        client.score(image, "tile", camera="line-cut-longer")
        opened.page.locator(".bl-tile", has_text="line-cut-longer").wait_for()
        opened.shows(texts.CONNECTED)


@pytest.fixture
def night(client: Client, tile_model: str) -> Iterator[datetime]:
    """Keep 101 frames of a model of its own, one a minute, and return the time of the newest."""
    detector = PatchCore(input_size=64, max_entries=200)
    job = client.wait(client.train("tile", model_id="night", detector=detector, promote=True))
    assert job.error == ""
    newest = datetime.now().astimezone().replace(second=30, microsecond=0) - timedelta(minutes=5)
    source = np.random.default_rng(5)
    frames = [
        Frame(
            source.integers(0, 255, (64, 64, 3), np.uint8), capture_time=newest - timedelta(minutes=minutes)
        )
        for minutes in range(101)
    ]
    list(client.stream(frames, "night", camera="line", store=Store.ALL, policy=StreamPolicy.BLOCK))
    give_up = time.monotonic() + 20
    while len(_items(client, "night")) < len(frames):
        assert time.monotonic() < give_up, "not all frames were kept"
        time.sleep(0.1)
    yield newest
    client.delete_model("night", force=True)


def test_pages_of_the_queue_are_turned_selected_and_begun_at_a_time(
    url: str, opened: Window, client: Client, night: datetime
) -> None:
    page = opened.page
    page.goto(f"{url}/review?model=night&show=all")
    opened.shows(texts.PAGE_RANGE.format(first=1, last=100, total=101))
    assert page.locator(".bl-thumb-choice").count() == 100
    assert page.get_by_role("button", name=texts.PAGE_BEFORE).is_disabled()
    page.get_by_role("button", name=texts.PAGE_AFTER).click()
    opened.shows(texts.PAGE_RANGE.format(first=101, last=101, total=101))
    opened.shows(texts.POSITION.format(position=101, total=101))
    assert page.get_by_role("button", name=texts.PAGE_AFTER).is_disabled()
    page.get_by_role("button", name=texts.SELECT_ALL).click()
    opened.shows(texts.SELECTED.format(count=1))
    page.get_by_role("button", name=texts.PAGE_BEFORE).click()
    opened.shows(texts.POSITION.format(position=1, total=101))
    page.locator(".bl-thumb-choice input").first.check()
    opened.shows(texts.SELECTED.format(count=2))
    page.locator(".bl-thumb-choice input").first.uncheck()
    page.get_by_role("button", name=texts.GOOD).last.click()
    opened.shows(texts.BULK_DONE.format(count=1))
    page.get_by_label(texts.UNTIL).fill("2020-01-01T00:00")
    opened.shows(texts.NOTHING_UNTIL)
    opened.shows(texts.POSITION.format(position=1, total=101))
    # Times without seconds: the frame of that minute comes after it.
    page.get_by_label(texts.UNTIL).fill((night - timedelta(minutes=60)).strftime("%Y-%m-%dT%H:%M"))
    opened.shows(texts.POSITION.format(position=1, total=40))
    page.locator(".bl-thumb-choice").nth(39).locator(".bl-chip-good").wait_for()
    page.locator(".bl-thumb-choice button").nth(38).click()
    opened.shows(texts.POSITION.format(position=39, total=40))


def test_training_is_started_with_the_form_watched_and_cancelled(
    url: str, opened: Window, client: Client, tile_model: str
) -> None:
    page = opened.page
    page.goto(f"{url}/train?dataset=tile")
    page.get_by_text(texts.SETTINGS_OF.format(detector="PatchCore")).click()
    page.get_by_label("neighbors").fill("99")
    page.get_by_role("button", name=texts.START_TRAINING).click()
    row = page.locator(".bl-setting", has=page.get_by_label("neighbors"))
    row.get_by_role("alert").get_by_text("99").wait_for()
    page.get_by_label("neighbors").fill("")
    page.get_by_label("coreset ratio").fill("0.02")
    page.get_by_label(texts.MODEL_FIELD, exact=True).fill("from-the-console")
    page.get_by_role("button", name=texts.START_TRAINING).click()
    opened.shows(texts.TRAINING_STARTED)
    page.get_by_role("button", name=texts.CANCEL_JOB).click()
    opened.shows(texts.CONFIRM_CANCEL)
    page.get_by_role("dialog").get_by_role("button", name=texts.CANCEL_JOB).click()
    page.locator(".bl-h1 + .bl-chip", has_text=texts.JOB_CANCELLED).wait_for()
    job = next(iter(client.jobs()))
    assert job.train.model_id == "from-the-console"
    assert job.train.patchcore.coreset_ratio == 0.02


def test_finished_training_leads_to_its_version_and_has_its_log(
    url: str, opened: Window, client: Client, tile_model: str
) -> None:
    finished = client.job(client.model(tile_model).job)
    opened.page.goto(f"{url}/train?job={finished.name}")
    opened.page.locator(".bl-log .q-virtual-scroll__content, .bl-log > *").first.wait_for()
    version = short(finished.result.model_version)
    opened.page.get_by_role("link", name=texts.SHOW_VERSION.format(version=version)).click()
    opened.shows(texts.FIGURES)
