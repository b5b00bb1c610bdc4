# SPDX-License-Identifier: Apache-2.0
"""Measure the console against a real stack, with its pages in a real Chromium.

    python -m tests.benchmarks.bench_console [line streams review night start] [--seconds 20] [--rounds 5]

- line: what open Line pages cost the console and Chromium, with 20 cameras and 10 events a second in all.
- streams: the rate of 4 streams that send as fast as they may, with a Line page open and without. Model and
  frames are those of bench_serving.
- review: the time of pages of Review with 10,000 kept frames, in the browser from the click to the frames.
- night: commands, keys and clicks for the review of a night on the command line and in the console, with
  the time that a person waits. Twelve of 500 kept frames are anomalous. Time to decide is left out.
- start: the time from the moment at which ``blemish up`` is ready to the first page of a browser.

Scenes take turns. Everything shares the machine's cores, so costs are CPU times of processes. In the part
streams, Chromium has the lowest priority, because it usually runs on another machine.
"""

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import psutil
from PIL import Image
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import Report, parser, section
from tests.support.browser import WITHIN_MS, chromium, console, window
from tests.support.processes import stop, wait_for_file

from blemish.v1.job_pb2 import PatchCore
from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM
from blemish_client import Client, Label, Store, StreamPolicy, Verdict
from blemish_client.demo.surfaces import generate
from blemish_client.errors import NotFound
from blemish_console import texts
from blemish_console.pages.review import UNTIL_PAUSE_MS

_PAGES = (0, 1, 2, 5)
_CAMERAS = 20
_EVERY_S = 2.0
_STREAMS = 4
_SETTLE_S = 5.0
_PATIENT_MS = 120_000
_LOWEST_PRIORITY = 19
_MIB = 2**20
_TURNS = 5
_NIGHT, _ANOMALOUS, _DEFECTS = 500, 12, 5
_TO_REVIEW = "source = camera AND verdict = anomalous AND label = none"
_THINK_MS = 500
"""Pause between the steps of a review, so that the page can finish what a person would not wait for."""
_CHANGE = """
    const source = () => document.querySelector(".bl-thumb-choice img").src;
    const before = source(), began = performance.now();
    act();
    await new Promise(done => {
        const look = () => requestAnimationFrame(source() === before ? look : done);
        look();
    });
    return performance.now() - began"""
_CLICK = f"""async name => {{
    const button = [...document.querySelectorAll("button")].find(each => each.innerText.includes(name));
    const act = () => button.click();{_CHANGE};
}}"""
"""Clicks a button, and returns the time until the first thumbnail is another one, in ms."""
_JUMP = f"""async ([name, text]) => {{
    const input = document.querySelector(`input[aria-label="${{name}}"]`);
    input.value = text;
    input.dispatchEvent(new Event("input"));
    await new Promise(done => setTimeout(done, {UNTIL_PAUSE_MS}));
    const act = () => {{}};{_CHANGE};
}}"""


def process_at(url: str) -> psutil.Process:
    """Return the process that listens on the port of a URL."""
    port = int(url.rstrip("/").rpartition(":")[2])
    for process in psutil.process_iter(["cmdline"]):
        if "blemish_client.cli" in (process.info["cmdline"] or []):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    raise SystemExit("the console's process was not found")


def browser_processes() -> list[psutil.Process]:
    """Return the processes of Chromium that this process has started."""
    return [each for each in psutil.Process().children(recursive=True) if "chrom" in each.name()]


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the CPU time of processes that still run, in seconds."""
    total = 0.0
    for process in processes:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


def quick_model(address: str, surface: Path, size: int) -> str:
    """Train a version that scores a frame in a few milliseconds, and return its name."""
    generate(surface, "tile", seed=7, train=24, good=4, defective=4, size=size)
    with Client(address) as client:
        client.import_dataset("tile", str(surface))
        detector = PatchCore(input_size=64, max_entries=500)
        job = client.wait(client.train("tile", model_id="tile", detector=detector, promote=True))
    if job.error:
        raise SystemExit(job.error)
    return str(job.result.model_version)


# Line pages


@dataclass(frozen=True)
class LineScene:
    """The results of one number of open pages in one round."""

    events: float
    """Verdicts per second."""
    console_cores: float
    browser_cores: float
    console_mib: float


def line(folder: Path, arguments: argparse.Namespace) -> list[str]:
    with ExitStack() as stack:
        address = stack.enter_context(serving.running(folder))
        model = quick_model(address, folder / "tile", 256)
        serving.jpegs(folder / "tile", folder / "frames")
        url = stack.enter_context(console(address, folder / "console"))
        browser = stack.enter_context(chromium())
        stack.enter_context(cameras(address, model, folder / "frames"))
        rounds = [
            {pages: line_scene(address, url, browser, pages, arguments.seconds) for pages in _PAGES}
            for _ in range(arguments.rounds)
        ]
    rows = [
        f"Console and browsers on the machine of the server. {_CAMERAS} cameras send frames of 512 px. "
        f"{arguments.seconds:g} s per scene, medians of {arguments.rounds} rounds. "
        "All pages are of one session.\n",
        "| open Line pages | verdicts/s | cores of the console | more per page | cores of Chromium "
        "| console, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for pages in _PAGES:
        scenes = [each[pages] for each in rounds]
        more = "-"
        if pages:
            added = [each[pages].console_cores - each[0].console_cores for each in rounds]
            more = f"{median(added) / pages:.3f}"
        rows.append(
            f"| {pages} | {median(one.events for one in scenes):.1f} "
            f"| {median(one.console_cores for one in scenes):.3f} | {more} "
            f"| {median(one.browser_cores for one in scenes):.2f} "
            f"| {median(one.console_mib for one in scenes):.0f} |"
        )
    return rows


@contextmanager
def cameras(address: str, model: str, frames: Path) -> Iterator[None]:
    """Send frames of all cameras until the end, each from a stream of its own."""
    plan = {
        "address": address,
        "model": model,
        "frames": str(frames),
        "seconds": 24 * 3600.0,
        "cameras": _CAMERAS,
        "every_s": _EVERY_S,
    }
    command = [sys.executable, "-m", "tests.benchmarks.bench_watch", "--generate", json.dumps(plan)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with Client(address) as client:
            while len(client.server_info().cameras) < _CAMERAS:
                time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def line_scene(address: str, url: str, browser: Any, pages: int, seconds: float) -> LineScene:
    """Open Line pages, and measure once they show all cameras."""
    server = process_at(url)
    with window(browser) as first, Client(address) as client:
        for number in range(pages):
            page = first.page.context.new_page() if number else first.page
            page.goto(f"{url}/line", timeout=_PATIENT_MS)
            page.locator(".bl-tile img").nth(_CAMERAS - 1).wait_for(timeout=_PATIENT_MS)
        first.page.wait_for_timeout(1000 * _SETTLE_S)
        processes, began = browser_processes(), time.perf_counter()
        frames, used_s, browser_s = _frames(client), cpu_s([server]), cpu_s(processes)
        first.page.wait_for_timeout(1000 * seconds)
        span_s = time.perf_counter() - began
        return LineScene(
            (_frames(client) - frames) / span_s,
            (cpu_s([server]) - used_s) / span_s,
            (cpu_s(processes) - browser_s) / span_s,
            server.memory_info().rss / _MIB,
        )


def _frames(client: Client) -> int:
    return sum(stream.frames for stream in client.server_info().streams)


# Streams with a page open


@dataclass(frozen=True)
class StreamScene:
    """The results of streams with or without an open page in one round."""

    rate: float
    """Frames scored per second."""
    server_ms: float
    """CPU time of the server per frame."""
    console_cores: float
    browser_cores: float


def streams(folder: Path, arguments: argparse.Namespace) -> list[str]:
    train = serving.trained_surface(folder / "tile")
    serving.jpegs(folder / "tile", folder / "frames")
    with ExitStack() as stack:
        address = stack.enter_context(serving.running(folder))
        plan = {
            "address": address,
            "model": train(address),
            "frames": str(folder / "frames"),
            "seconds": arguments.seconds,
            "cameras": _STREAMS,
            "every_s": 0.0,
        }
        url = stack.enter_context(console(address, folder / "console"))
        browser = stack.enter_context(chromium())
        for process in browser_processes():
            process.nice(_LOWEST_PRIORITY)
        stream_scene(plan, url, browser, is_open=True)  # warm-up
        order = (False, True, False)
        rounds = [
            [stream_scene(plan, url, browser, is_open=each) for each in order]
            for _ in range(arguments.rounds)
        ]
    rows = [
        f"{_STREAMS} streams send as fast as they may. {arguments.seconds:g} s per scene, medians of "
        f"{arguments.rounds} rounds. Shares are those of the mean of both scenes without "
        "a page in a round.\n",
        "| Line pages | frames/s | share of the rate without | server CPU per frame, ms "
        "| share of that without | cores of the console | cores of Chromium |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, name in enumerate(("0", "1", "0, again")):
        scenes = [each[place] for each in rounds]
        shares = [each[place].rate / mean([each[0].rate, each[2].rate]) for each in rounds]
        costs = [each[place].server_ms / mean([each[0].server_ms, each[2].server_ms]) for each in rounds]
        rows.append(
            f"| {name} | {median(one.rate for one in scenes):.1f} | {median(shares):.3f} "
            f"| {median(one.server_ms for one in scenes):.1f} | {median(costs):.3f} "
            f"| {median(one.console_cores for one in scenes):.3f} "
            f"| {median(one.browser_cores for one in scenes):.2f} |"
        )
    return rows


def stream_scene(plan: dict[str, Any], url: str, browser: Any, *, is_open: bool) -> StreamScene:
    """Load the server from another process, with or without a page that shows all cameras."""
    server, serving_console = serving.server_process(plan["address"]), process_at(url)
    with window(browser) as opened:
        if is_open:
            opened.page.goto(f"{url}/line", timeout=_PATIENT_MS)
            opened.page.locator(".bl-line").wait_for(timeout=_PATIENT_MS, state="attached")
        processes = browser_processes()
        before = [cpu_s([server]), cpu_s([serving_console]), cpu_s(processes)]
        command = [sys.executable, "-m", "tests.benchmarks.bench_watch", "--generate", json.dumps(plan)]
        ran = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while ran.poll() is None:
            opened.page.wait_for_timeout(200)
        assert ran.stdout is not None
        frames, span_s = int(ran.stdout.read()), plan["seconds"]
        after = [cpu_s([server]), cpu_s([serving_console]), cpu_s(processes)]
        server_s, console_s, browser_s = (late - early for early, late in zip(before, after, strict=True))
        if is_open:
            assert opened.page.locator(".bl-tile img").count() == _STREAMS
        return StreamScene(
            frames / span_s, 1000 * server_s / frames, console_s / span_s, browser_s / span_s
        )


# Review


def review(folder: Path, arguments: argparse.Namespace) -> list[str]:
    with ExitStack() as stack:
        address = stack.enter_context(serving.running(folder))
        quick_model(address, folder / "tile", 128)
        oldest, newest = keep_frames(address, folder / "tile/test", arguments.frames)
        url = stack.enter_context(console(address, folder / "console"))
        opened = stack.enter_context(window(stack.enter_context(chromium())))
        path = "/review?model=tile&show=all&hours=0"
        times: dict[str, list[float]] = {"next page": [], "page before": [], "jump to a time": []}
        opens_s = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            opened.page.goto(url + path, timeout=_PATIENT_MS)
            opened.page.locator(".bl-thumb-choice").nth(99).wait_for(timeout=_PATIENT_MS)
            opens_s.append(time.perf_counter() - began)
            opened.page.wait_for_timeout(1000 * _SETTLE_S)
            for name, button in (("next page", texts.PAGE_AFTER), ("page before", texts.PAGE_BEFORE)):
                for _ in range(_TURNS):
                    times[name].append(opened.page.evaluate(_CLICK, button))
                    opened.page.wait_for_timeout(1000)
            for part in range(1, _TURNS + 1):
                moment = oldest + (newest - oldest) * part / (_TURNS + 1)
                text = moment.astimezone().isoformat(timespec="seconds")[:19]
                times["jump to a time"].append(opened.page.evaluate(_JUMP, [texts.UNTIL, text]))
                opened.page.wait_for_timeout(1000)
    rows = [
        f"{arguments.frames:,} kept frames of 128 px, 100 on a page; {arguments.rounds} rounds of {_TURNS} "
        "steps each. From the click to the new frames in the document, thumbnails not included. A jump "
        "waits for the last key first, which is not counted.\n",
        "| ms | median | 90 % |",
        "|---|---|---|",
    ]
    for name, found in times.items():
        rows.append(f"| {name} | {median(found):.0f} | {sorted(found)[int(0.9 * len(found))]:.0f} |")
    rows.append(f"| the page from its address | {1000 * median(opens_s):.0f} | {1000 * max(opens_s):.0f} |")
    return rows


def keep_frames(address: str, folder: Path, count: int) -> tuple[datetime, datetime]:
    """Stream frames with noise of their own; return the times of the oldest and newest kept one."""
    frames = noisy_frames(folder, count)
    with Client(address) as client:
        for _ in client.stream(frames, "tile", camera="line", store=Store.ALL, policy=StreamPolicy.BLOCK):
            pass
        wait_kept(client, count)
        ends = [
            client.items_page("tile", order_by=order, page_size=1).items[0].time.ToDatetime(UTC)
            for order in ("time", "time desc")
        ]
    return ends[0], ends[1]


def wait_kept(client: Client, count: int) -> None:
    """Return once the index has a number of frames, which are written after their answers."""
    while True:
        with suppress(NotFound):  # the first frame makes the index
            if client.count_items("tile", where="source = camera") >= count:
                return
        time.sleep(0.5)


def noisy_frames(folder: Path, count: int) -> Iterator[bytes]:
    """Yield JPEGs of the images of a folder, each with noise of its own."""
    files = sorted(folder.glob("*/*.png"))
    sources = [np.asarray(Image.open(file).convert("RGB"), np.int16) for file in files]
    noise = np.random.default_rng(1)
    for number in range(count):
        source = sources[number % len(sources)]
        pixels = np.clip(source + noise.integers(-3, 4, source.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


# A night's review


@dataclass
class Effort:
    """The effort of a person for one way to review."""

    commands: int = 0
    keys: int = 0
    """Keys pressed, with the Enter of each command."""
    clicks: int = 0
    waited_s: float = 0.0


def night(folder: Path, arguments: argparse.Namespace) -> list[str]:
    with ExitStack() as stack:
        address = stack.enter_context(serving.running(folder))
        model = quick_model(address, folder / "tile", 128)
        client = stack.enter_context(Client(address))
        keep_night(client, folder)
        url = stack.enter_context(console(address, folder / "console"))
        browser = stack.enter_context(chromium())
        ways: dict[str, Callable[[list[str]], Effort]] = {
            "command line: items, then label for each frame": lambda found: by_label(address, found),
            "command line: review": lambda found: by_review(address, found, folder),
            "console: Review by keys": lambda found: by_keys(url, browser, found),
            "console: Review, false alarms at once": lambda found: in_bulk(url, browser, found),
        }
        rows = []
        for name, way in ways.items():
            found = [item.item for item in client.items("tile", where=_TO_REVIEW, order_by="time desc")]
            assert len(found) == _ANOMALOUS
            effort = way(found)
            labels = [client.item(item, model) for item in found]
            assert [each.label for each in labels] == [_wanted(at) for at in range(_ANOMALOUS)], name
            rows.append(
                f"| {name} | {effort.commands} | {effort.keys} | {effort.clicks} | {effort.waited_s:.1f} |"
            )
            for item in found:
                client.label(item, model, Label.NONE)
    return [
        f"{_NIGHT} kept frames of two cameras, {_ANOMALOUS} of them anomalous: {_DEFECTS} defects of one "
        f"class, and {_ANOMALOUS - _DEFECTS} false alarms. Commands are typed with the first 8 digits of "
        "ids. The time is that of commands and pages, without looking and deciding.\n",
        "| way | commands | keys | clicks | waited, s |",
        "|---|---|---|---|---|",
        *rows,
    ]


def keep_night(client: Client, folder: Path) -> None:
    """Keep frames of which a known number is anomalous."""
    wanted = {Verdict.ANOMALOUS: _ANOMALOUS, Verdict.NORMAL: _NIGHT - _ANOMALOUS}
    chosen: list[bytes] = []
    for image in noisy_frames(folder / "tile/test", 10 * _NIGHT):
        verdict = Verdict(client.score(image, "tile").verdict)
        if wanted.get(verdict, 0):
            wanted[verdict] -= 1
            chosen.append(image)
        if not any(wanted.values()):
            break
    else:
        raise SystemExit(f"not enough frames of each verdict: {wanted}")
    for camera, part in (("left", chosen[::2]), ("right", chosen[1::2])):
        list(client.stream(part, "tile", camera=camera, store=Store.ALL, policy=StreamPolicy.BLOCK))
    wait_kept(client, _NIGHT)


def _wanted(at: int) -> int:
    """Return the label of a frame by its position in the queue: defects are spread over the night."""
    return LABEL_CONFIRMED if at % 2 == 0 and at < 2 * _DEFECTS else LABEL_FALSE_ALARM


def _ran(address: str, line: str, effort: Effort, given: str = "") -> str:
    """Run a command of the command line, and count it as typed."""
    effort.commands += 1
    effort.keys += len(line) + 1 + len(given)
    began = time.perf_counter()
    command = [sys.executable, "-m", "blemish_client.cli", *shlex.split(line)[1:]]
    environment = os.environ | {"BLEMISH_SERVER": address}
    ran = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=True)
    effort.waited_s += time.perf_counter() - began
    return ran.stdout


def by_label(address: str, found: list[str]) -> Effort:
    effort = Effort()
    _ran(address, "blemish items -m tile --since 8h --verdict anomalous --label unlabelled", effort)
    for at, item in enumerate(found):
        short_id = item.removeprefix("items/")[:8]
        label = "confirmed --class crack" if _wanted(at) == LABEL_CONFIRMED else "false-alarm"
        _ran(address, f"blemish label {short_id} {label} -m tile", effort)
    return effort


def by_review(address: str, found: list[str], folder: Path) -> Effort:
    effort = Effort()
    answers = [
        "d crack",
        *(("d" if _wanted(at) == LABEL_CONFIRMED else "f") for at in range(1, len(found))),
    ]
    sheet = shlex.quote(str(folder / "night.png"))
    _ran(address, f"blemish review -m tile --since 8h --sheet {sheet}", effort, "\n".join(answers) + "\n")
    effort.keys -= len(sheet) - len("night.png")
    return effort


@contextmanager
def _queue(url: str, browser: Any, effort: Effort) -> Iterator[Any]:
    """Open the queue, and wait as a person does until its first frame is shown."""
    with window(browser) as opened:
        began = time.perf_counter()
        opened.page.goto(f"{url}/review", timeout=_PATIENT_MS)
        opened.shows(texts.POSITION.format(position=1, total=_ANOMALOUS))
        opened.page.locator(".bl-image").wait_for()
        effort.waited_s += time.perf_counter() - began
        effort.clicks += 1  # the entry in the navigation
        opened.page.wait_for_timeout(_THINK_MS)
        yield opened.page


def _press(page: Any, effort: Effort, key: str, shown: str) -> None:
    """Press a key, wait until a text is shown, then look at the frame as a person does."""
    began = time.perf_counter()
    page.keyboard.press(key)
    page.get_by_text(shown, exact=True).first.wait_for(timeout=_PATIENT_MS)
    effort.keys += 1
    effort.waited_s += time.perf_counter() - began
    page.wait_for_timeout(_THINK_MS)


def _name_class(page: Any, effort: Effort) -> None:
    """Write the class of the defects once; it stays for all frames."""
    page.get_by_label(texts.DEFECT_CLASS).click()
    page.keyboard.type("crack")
    page.keyboard.press("Enter")
    page.locator(".bl-picture").click()
    effort.clicks += 2
    effort.keys += len("crack") + 1


def by_keys(url: str, browser: Any, found: list[str]) -> Effort:
    effort = Effort()
    with _queue(url, browser, effort) as page:
        _name_class(page, effort)
        for at in range(len(found)):
            last = at + 1 == len(found)
            shown = texts.ALL_DONE if last else texts.POSITION.format(position=at + 2, total=len(found))
            _press(page, effort, "d" if _wanted(at) == LABEL_CONFIRMED else "f", shown)
    return effort


def in_bulk(url: str, browser: Any, found: list[str]) -> Effort:
    """Select all, leave out the defects, label the rest at once, then confirm the defects by key."""
    effort = Effort()
    with _queue(url, browser, effort) as page:
        _name_class(page, effort)
        defects = [at for at in range(len(found)) if _wanted(at) == LABEL_CONFIRMED]
        page.get_by_role("button", name=texts.SELECT_ALL).click()
        page.get_by_text(texts.SELECTED.format(count=len(found))).wait_for()
        for at in defects:
            page.locator(".bl-thumb-choice input").nth(at).uncheck()
            page.wait_for_timeout(_THINK_MS)
        page.get_by_text(texts.SELECTED.format(count=len(found) - len(defects))).wait_for()
        began = time.perf_counter()
        queue = page.locator(".bl-card", has_text=texts.QUEUE)
        queue.get_by_role("button", name=texts.FALSE_ALARM).last.click()
        page.get_by_text(texts.BULK_DONE.format(count=len(found) - len(defects))).wait_for()
        effort.waited_s += time.perf_counter() - began
        effort.clicks += 2 + len(defects)
        for at, after in zip(defects, [*defects[1:], None], strict=True):
            shown = texts.ALL_DONE
            if after is not None:
                shown = texts.POSITION.format(position=after + 1, total=len(found))
            assert page.get_by_text(texts.POSITION.format(position=at + 1, total=len(found))).count()
            _press(page, effort, "d", shown)
    return effort


# The start


def start(folder: Path, arguments: argparse.Namespace) -> list[str]:
    with chromium() as browser:
        rounds = [start_scene(folder / f"start-{each}", browser) for each in range(arguments.rounds)]
    rows = [
        f"A stack without data; medians and the highest of {arguments.rounds} starts. "
        "Chromium runs already.\n",
        "| time from ready, s | median | highest |",
        "|---|---|---|",
    ]
    for name, times in zip(
        ("header of the first page", "its content"), zip(*rounds, strict=True), strict=True
    ):
        rows.append(f"| {name} | {median(times):.2f} | {max(times):.2f} |")
    return rows


def start_scene(folder: Path, browser: Any) -> tuple[float, float]:
    """Start a stack, and return the times from ready to the header and to the content, in seconds."""
    folder.mkdir()
    address, log = folder / "address", folder / "up.log"
    command = [sys.executable, "-m", "blemish_local", "up", "--data", str(folder / "data")]
    command += ["--listen", "127.0.0.1:0", "--address-file", str(address)]
    with window(browser) as opened, log.open("wb") as written:
        stack = subprocess.Popen(command, stdout=written, stderr=written)
        try:
            wait_for_file(address, stack)
            ready_s = time.perf_counter()
            url = (folder / "data/run/console.ready").read_text().strip()
            opened.page.goto(url, wait_until="commit")
            opened.page.locator(".bl-header").wait_for(timeout=WITHIN_MS)
            header_s = time.perf_counter() - ready_s
            opened.shows(texts.NO_CAMERAS)
            return header_s, time.perf_counter() - ready_s
        finally:
            stop(stack)


_PARTS: dict[str, tuple[str, Callable[[Path, argparse.Namespace], list[str]]]] = {
    "line": ("Console: open Line pages", line),
    "streams": ("Console: streams with a Line page open", streams),
    "review": ("Console: pages of Review", review),
    "night": ("Console: a night's review", night),
    "start": ("Console: the first page", start),
}


def write(report: Report, rows: list[str]) -> None:
    for row in rows:
        report.write(row)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", choices=_PARTS, default=list(_PARTS), help="parts to measure")
    options.add_argument("--seconds", type=float, default=20.0, help="length of a scene")
    options.add_argument("--frames", type=int, default=10_000, help="kept frames of the part review")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    for name in arguments.parts:
        title, measure = _PARTS[name]
        with (
            tempfile.TemporaryDirectory() as made,
            section(f"bench_console_{name}", title, arguments) as report,
        ):
            write(report, measure(Path(made), arguments))


if __name__ == "__main__":
    main()
