# SPDX-License-Identifier: Apache-2.0
"""The frame of all pages of the console in a real browser, against a running stack."""

import signal
from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack, Start
from tests.support.browser import Window, console

from blemish_client import Client
from blemish_client.errors import BlemishError
from blemish_console import texts


def test_system_shows_every_part_of_the_stack(
    stack: RunningStack, url: str, opened: Window, tile_model: str
) -> None:
    with Client(stack.address) as client, pytest.raises(BlemishError):
        client.import_dataset("shell", "missing")  # the page shows only the latest entries of the audit log
    opened.page.goto(f"{url}/system")
    for text in (texts.HEALTH, "Redis", "Qdrant", texts.DISK, "worker ", "indexed images", "ImportDataset"):
        opened.shows(text)
    # The entries of other tests below may have failed.
    health = opened.page.locator(".bl-card", has_text=texts.HEALTH)
    assert health.locator(".bl-chip-good").count() >= 5
    assert health.locator(".bl-chip-bad").count() == 0
    assert texts.CONNECTED in opened.text()


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
