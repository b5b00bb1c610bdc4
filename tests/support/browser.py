# SPDX-License-Identifier: Apache-2.0
"""Chromium, driven by Playwright, and consoles for it. Tests are skipped without either, but not in CI."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.support.processes import stop, wait_for_file

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHIN_MS = 15_000
"""Time within which a page must show what a test waits for."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Return a browser, or skip the test with the reason."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _leave_out("Playwright is not installed; get it with: pip install 'blemish[dev]'")
    executable, *arguments = chromium_command()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


def chromium_command() -> list[str]:
    """Return the command that starts Chromium, or skip the test with the reason."""
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        _leave_out("Chromium is not installed; get it with: apt-get install chromium")
    # Chromium's sandbox does not run as root.
    return [executable, "--no-sandbox"] if os.geteuid() == 0 else [executable]


def _leave_out(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Window:
    """A page in a browser context of its own, and the problems that it reported."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def shows(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(text).first.wait_for(timeout=WITHIN_MS)

    def hides(self, text: str) -> None:
        """Wait until the page shows a text no longer."""
        self.page.get_by_text(text).first.wait_for(timeout=WITHIN_MS, state="hidden")

    def text(self) -> str:
        return str(self.page.inner_text("body"))


@contextmanager
def window(browser: Any, **options: Any) -> Iterator[Window]:
    """Open a window without cookies of others; a script that failed in it fails the test at the end."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
    context.set_default_timeout(WITHIN_MS)
    opened = Window(context.new_page())
    opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
    yield opened
    context.close()
    assert opened.problems == []


@contextmanager
def console(server: str, folder: Path, *options: str) -> Iterator[str]:
    """Run a console of a server and return its URL, without a slash at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    address_file = folder / "url"
    command = [sys.executable, "-m", "blemish_client.cli", "--server", server, "console"]
    command += ["--listen", "127.0.0.1:0", "--address-file", str(address_file), *options]
    with (folder / "console.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield wait_for_file(address_file, process).rstrip("/")
    finally:
        stop(process)
