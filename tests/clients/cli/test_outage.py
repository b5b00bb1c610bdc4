# SPDX-License-Identifier: Apache-2.0
import time

import grpc
from rich.console import Console

from blemish_client.cli.live_view import StreamView
from blemish_client.cli.outage import Outage, OutageMonitor, OutageReporter
from blemish_client.errors import Unavailable

CAUSE = Unavailable("cannot connect to line:50051: connection refused", code=grpc.StatusCode.UNAVAILABLE)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def headline(monitor: OutageMonitor) -> str:
    outage = monitor.outage()
    return "" if outage is None else outage.headline


def test_unreachable_server_is_an_outage_until_a_frame_is_answered() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    for _ in range(4):
        monitor.server_failed(CAUSE)
        clock.now_s += 5
    outage = monitor.outage()
    assert outage is not None
    assert outage.headline == "NOT INSPECTING, server unreachable for 20 s"
    assert "blemish up" in outage.detail
    monitor.answered()
    assert headline(monitor) == ""


def test_short_interruption_is_no_outage() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    monitor.server_failed(CAUSE)
    clock.now_s += 1
    assert headline(monitor) == ""


def test_quiet_camera_after_a_reconnection_is_no_outage() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    monitor.server_failed(CAUSE)
    clock.now_s += 30  # no attempt has failed since
    assert headline(monitor) == ""


def test_server_that_does_not_answer_is_an_outage_from_the_last_answer() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    monitor.sent()
    monitor.sent()
    monitor.answered()
    clock.now_s += 12
    assert headline(monitor) == "NOT INSPECTING, no answer from the server for 12 s"
    monitor.server_failed(CAUSE)
    clock.now_s += 3
    assert headline(monitor) == "NOT INSPECTING, server unreachable for 15 s"
    monitor.lost(1)
    monitor.answered()
    clock.now_s += 60
    assert headline(monitor) == "", "nothing waits for an answer"


def test_source_that_is_away_is_an_outage() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    monitor.source_away(True)
    clock.now_s += 15
    assert headline(monitor) == "NOT INSPECTING, source unreachable for 15 s"
    monitor.source_away(False)
    assert headline(monitor) == ""


def test_refusals_alone_are_an_outage() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    for _ in range(10):
        monitor.sent()
        monitor.answered()
        monitor.refused("the queue is full")
        clock.now_s += 1
    outage = monitor.outage()
    assert outage is not None
    assert outage.headline == "NOT INSPECTING, every frame refused for 10 s"
    assert outage.detail == "the queue is full"
    monitor.inspected()
    assert headline(monitor) == ""


def test_lines_are_printed_at_once_at_intervals_and_at_the_end() -> None:
    clock = Clock()
    monitor = OutageMonitor(clock)
    lines: list[str] = []
    monitor.source_away(True)
    with OutageReporter(monitor, lines.append, interval_s=0.01) as reporter:
        for seconds in (3, 4, 60):
            clock.now_s += seconds
            time.sleep(0.2)
        monitor.source_away(False)
        time.sleep(0.2)
    assert lines == [
        "NOT INSPECTING, source unreachable for 3 s",
        "NOT INSPECTING, source unreachable for 67 s",
        "inspecting again after 67 s: source unreachable",
    ]
    assert (reporter.count, reporter.total_s) == (1, 67.0)


def test_banner_takes_the_whole_width_in_reverse_video() -> None:
    console = Console(width=60, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(StreamView().screen(Outage("server unreachable", 15.2, "cannot connect")))
    lines = capture.get().splitlines()
    (line,) = (line for line in lines if "NOT INSPECTING, server unreachable for 15 s" in line)
    assert "\x1b[1;7;31m" in line
    assert sum("\x1b[1;7;31m" in each for each in lines) == 3, "lines above and below are filled, too"
    plain = Console(width=60)
    with plain.capture() as capture:
        plain.print(StreamView().screen(Outage("server unreachable", 15.2)))
    (line,) = (line for line in capture.get().splitlines() if "NOT INSPECTING" in line)
    assert len(line) == 60
