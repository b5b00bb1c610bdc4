# SPDX-License-Identifier: Apache-2.0
"""Measure the memory of the console and of a browser's tab while a Line page stays open.

    python -m tests.benchmarks.bench_console_memory [--minutes 10] [--rate 500]

A server that sends made-up verdicts of 20 cameras replays the events of many hours within minutes. The page
is drawn at its own pace of four times a second, and thumbnails come ten times as often as on a line with 10
verdicts a second. Every five seconds a second tab opens another page and is closed. Every two minutes the
server drops the watch, so that the console watches again.
"""

import argparse
import itertools
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import grpc
import numpy as np
import psutil
from playwright.sync_api import sync_playwright
from tests.benchmarks.bench_console import browser_processes, process_at
from tests.benchmarks.report import parser, section
from tests.support.browser import chromium_command, console
from tests.support.fake_server import CallError, FakeServer, picture, serve
from tests.support.processes import stop, wait_for_file

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.inspection_pb2 import (
    CameraState,
    CameraStates,
    InspectionEvent,
    InspectionThumbnail,
    WatchInspectionsResponse,
)

_CAMERAS = 20
_USUAL_RATE = 10.0
"""Verdicts per second of a line with this number of cameras."""
_THUMBNAILS_PER_S = 100
_WATCH_S = 120.0
_VISIT_S = 5.0
_VISITED = ("/system", "/train", "/data", "/models", "/line")
_SAMPLES = 10
_MIB = 2**20


class Line(FakeServer):
    """A server whose cameras send verdicts at a high rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.sent = 0
        """Verdicts sent."""
        self.began = 0
        """Watches begun."""
        self._rate = rate
        self._picture = picture(240)

    def WatchInspections(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Send verdicts, thumbnails and states, then end the call as a server that is restarted does."""
        self.began += 1
        until_s = time.monotonic() + _WATCH_S
        yield self._states()
        for second in itertools.count():
            began_s = time.monotonic()
            yield from self._verdicts(np.random.default_rng(second))
            yield self._states()
            time.sleep(max(0.0, 1.0 - (time.monotonic() - began_s)))
            if time.monotonic() > until_s or not context.is_active():
                break
        CallError(grpc.StatusCode.UNAVAILABLE, "the server is restarted").abort(context)

    def _verdicts(self, noise: np.random.Generator) -> Iterator[WatchInspectionsResponse]:
        every = max(1, round(self._rate / _THUMBNAILS_PER_S))
        for number, p_value in enumerate(noise.uniform(size=int(self._rate))):
            event = self._event(number % _CAMERAS, float(p_value))
            self.sent += 1
            yield WatchInspectionsResponse(inspection=event)
            if number % every == 0:
                # Each differs by a byte after its end, so that the browser cannot reuse an older one.
                jpeg = self._picture + self.sent.to_bytes(8)
                drawn = self._event(number // every % _CAMERAS, float(p_value))
                yield WatchInspectionsResponse(thumbnail=InspectionThumbnail(inspection=drawn, jpeg=jpeg))

    def _event(self, camera: int, p_value: float) -> InspectionEvent:
        event = InspectionEvent(
            camera=f"camera {camera}",
            model_version="models/tile/versions/1",
            verdict=VERDICT_ANOMALOUS if p_value < 0.05 else VERDICT_NORMAL,
            score=1 - p_value,
            threshold=0.95,
            p_value=p_value,
            width=640,
            height=480,
        )
        event.time.GetCurrentTime()
        return event

    def _states(self) -> WatchInspectionsResponse:
        cameras = [
            CameraState(camera=f"camera {each}", last=self._event(each, 0.5), images_per_second=0.5)
            for each in range(_CAMERAS)
        ]
        return WatchInspectionsResponse(states=CameraStates(cameras=cameras))


@dataclass(frozen=True)
class Sample:
    """The memory at one moment, in MiB."""

    verdicts: int
    console: float
    tabs: float
    """Resident memory of the processes that draw pages."""
    browser: float
    """Resident memory of all processes of the browser."""


class Browser:
    """Chromium without a debugger: Playwright's would keep what the page has received."""

    def __init__(self, folder: Path, url: str) -> None:
        command = [*chromium_command(), "--headless=new", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={folder}", "--window-size=1280,800", url]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        port, _ = wait_for_file(folder / "DevToolsActivePort", self.process).split()
        self.address = f"http://127.0.0.1:{port}"

    def visit(self, url: str, seconds: float) -> None:
        """Open a page in a tab of its own for a time."""
        opening = Request(f"{self.address}/json/new?{quote(url, safe='')}", method="PUT")
        tab = json.load(urlopen(opening, timeout=30))
        time.sleep(seconds)
        urlopen(f"{self.address}/json/close/{tab['id']}", timeout=30).read()

    def check(self, url: str) -> float:
        """Check that the Line page still shows all cameras, and return its JavaScript heap in MiB."""
        with sync_playwright() as playwright:
            attached = playwright.chromium.connect_over_cdp(self.address)
            [page] = [page for each in attached.contexts for page in each.pages if page.url == url]
            assert page.locator(".bl-tile img").count() == _CAMERAS
            tools = page.context.new_cdp_session(page)
            tools.send("HeapProfiler.collectGarbage")
            used: int = tools.send("Runtime.getHeapUsage")["usedSize"]
            return used / _MIB


def measure(folder: Path, minutes: float, rate: float) -> tuple[list[Sample], float, Line]:
    line = Line(rate)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    grpc_server = serve(line, address)
    try:
        with console(address, folder) as url:
            browser = Browser(folder / "profile", f"{url}/line")
            try:
                samples, visits = [], itertools.cycle(_VISITED)
                began_s = time.monotonic()
                for number in range(_SAMPLES + 1):
                    while time.monotonic() - began_s < 60 * minutes * number / _SAMPLES:
                        browser.visit(url + next(visits), _VISIT_S)
                    samples.append(
                        Sample(
                            line.sent,
                            process_at(url).memory_info().rss / _MIB,
                            _resident("--type=renderer"),
                            _resident(""),
                        )
                    )
                    print(samples[-1], flush=True)
                return samples, browser.check(f"{url}/line"), line
            finally:
                stop(browser.process)
    finally:
        grpc_server.stop(0)


def _resident(option: str) -> float:
    """Return the resident memory of the browser's processes that have an option, in MiB."""
    total = 0
    for process in browser_processes():
        with suppress(psutil.Error):  # it ended meanwhile
            if option in " ".join(process.cmdline()):
                total += process.memory_info().rss
    return total / _MIB


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--rate", type=float, default=500.0, help="verdicts per second")
    arguments: argparse.Namespace = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_console_memory", "Console: memory over time", arguments) as report,
    ):
        samples, heap, line = measure(Path(made), arguments.minutes, arguments.rate)
        hours = line.sent / _USUAL_RATE / 3600
        report.write(
            f"{line.sent:,} verdicts in {arguments.minutes:g} minutes, as many as a line with "
            f"{_USUAL_RATE:g} verdicts a second gives in {hours:.0f} hours. The page was drawn four times "
            f"a second, so its drawing is that of {arguments.minutes:g} minutes. {line.began} watches.\n"
        )
        report.write(f"Heap of the tab at the end, after a collection of garbage: {heap:.0f} MiB.\n")
        report.write("| verdicts | console, MiB | tabs, MiB | all of Chromium, MiB |")
        report.write("|---|---|---|---|")
        for each in samples:
            report.write(
                f"| {each.verdicts:,} | {each.console:.0f} | {each.tabs:.0f} | {each.browser:.0f} |"
            )


if __name__ == "__main__":
    main()
