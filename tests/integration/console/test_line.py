# SPDX-License-Identifier: Apache-2.0
"""The page Line in a real browser, against a running stack."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.integration.conftest import RunningStack
from tests.integration.console.conftest import MARKUP
from tests.support.browser import Window, window
from tests.support.relay import Relay

from blemish_client import Client
from blemish_console import texts, theme
from blemish_console.formats import number


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


def test_line_shows_the_last_verdict_of_each_camera(
    url: str, opened: Window, client: Client, kept_frames: list[str]
) -> None:
    opened.page.goto(f"{url}/line?{urlencode({'camera': MARKUP})}")
    opened.shows(MARKUP)
    opened.page.get_by_label(texts.CAMERA_FILTER).fill("Pair-")
    opened.shows(texts.NO_CAMERA_MATCHES)
    image = client.item_image(kept_frames[0], "tile").content
    for camera in ("pair-left", "pair-right"):
        scored = client.score(image, "tile", camera=camera)
        tile = opened.page.locator(".bl-tile", has_text=camera)
        tile.get_by_text(theme.verdict_sign(scored.verdict).word, exact=True).first.wait_for()
        tile.locator("img").wait_for()
        tile.get_by_text(number(scored.score), exact=True).wait_for()
    assert opened.page.locator(".bl-tile").count() == 2
    opened.page.reload()
    opened.shows("pair-right")
    assert opened.page.locator(".bl-tile").count() == 2


def test_closed_tab_ends_its_watch_on_the_server(
    stack: RunningStack, url: str, browser: Any, client: Client, kept_frames: list[str]
) -> None:
    client.score(client.item_image(kept_frames[0], "tile").content, "tile", camera="line-tabs")
    _wait_for_watchers(stack, 0)  # those of pages that other tests have just closed end within seconds
    with window(browser) as opened:
        opened.page.goto(f"{url}/line?camera=line-tabs")
        _wait_for_watchers(stack, 1)
        other = opened.page.context.new_page()
        other.goto(f"{url}/line?camera=line-tabs")
        other.locator(".bl-tile", has_text="line-tabs").wait_for()
        opened.page.close()
        time.sleep(5)  # the console forgets a closed page after 3 s
        assert _watchers(stack) == 1, "the tabs of a session share a watch"
    _wait_for_watchers(stack, 0)


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
        # The watch sends pictures of new frames only, and all scripts of the page must have arrived.
        opened.hides(texts.LINE_WAITING)
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
