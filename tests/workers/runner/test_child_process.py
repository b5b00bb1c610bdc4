# SPDX-License-Identifier: Apache-2.0
"""A child process is read up to its last complete message, and its end is reported."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blemish_core.jobs import messages
from blemish_core.jobs.record import TrainSpec
from blemish_workers.runner.child_process import ChildDied, ChildProcess

TRAIN = messages.Train(job="j", spec=TrainSpec(dataset="tile", model_id="tile"))
READY = messages.Ready(device="cpu").model_dump_json()
DONE = messages.Done().model_dump_json()

Start = Callable[[str], ChildProcess]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Start a child that runs ``script``, which sends its messages with ``send``."""
    children: list[ChildProcess] = []
    popen = subprocess.Popen

    def started(script: str) -> ChildProcess:
        file = tmp_path / "child.py"
        preamble = """
            import os, signal, sys
            def send(line): os.write(int(sys.argv[1]), line.encode())
        """
        file.write_text(textwrap.dedent(preamble) + textwrap.dedent(script))

        def popen_script(command: list[str], **options: Any) -> Any:
            return popen([sys.executable, str(file), command[-1]], **options)

        monkeypatch.setattr(subprocess, "Popen", popen_script)
        children.append(ChildProcess("cpu"))
        return children[-1]

    yield started
    for child in children:
        child.kill()


def all_messages(child: ChildProcess) -> list[messages.FromChild]:
    """Return all messages until the child is dead."""
    received: list[messages.FromChild] = []
    while True:
        try:
            if (message := child.receive(10)) is not None:
                received.append(message)
        except ChildDied:
            return received


def test_log_lines_belong_to_their_step(start: Start) -> None:
    child = start(f"""
        send({READY!r} + chr(10))
        for number, step in enumerate(sys.stdin):
            print("line of step", number)
            print({messages.END_OF_STEP!r}, flush=True)
            send({DONE!r} + chr(10))
    """)
    for number in range(20):
        child.send(TRAIN)
        assert isinstance(child.receive(10), messages.Done)
        assert child.lines() == [f"line of step {number}"]
    assert child.device == "cpu"
    assert child.memory_bytes() > 0
    child.kill()
    with pytest.raises(ChildDied, match="SIGKILL"):
        child.receive(10)


@pytest.mark.parametrize(
    ("script", "description"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was killed by SIGKILL \(out of memory\?\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os._exit(3)", "ended with exit code 3"),
    ],
)
def test_every_receive_after_death_reports_its_cause(start: Start, script: str, description: str) -> None:
    child = start(script)
    for _ in range(2):
        with pytest.raises(ChildDied, match=description):
            child.receive(10)
        child.send(TRAIN)
    assert not child.alive


def test_incomplete_message_is_dropped(start: Start) -> None:
    child = start(f"""
        send({DONE!r} + chr(10) + {DONE[:8]!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert [type(message) for message in all_messages(child)] == [messages.Done]


def test_log_accepts_any_bytes(start: Start) -> None:
    child = start("""
        os.write(1, bytes([255, 254]) + b" invalid" + bytes([10]) + b"no line end")
    """)
    assert all_messages(child) == []
    lines: list[str] = []
    deadline = time.monotonic() + 10
    while len(lines) < 2 and time.monotonic() < deadline:
        lines += child.lines()
    assert lines == ["\ufffd\ufffd invalid", "no line end"]


def test_child_that_closes_its_pipe_is_killed(start: Start) -> None:
    child = start("""
        os.close(int(sys.argv[1]))
        signal.pause()
    """)
    with pytest.raises(ChildDied):
        child.receive(10)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, signal.SIG_DFL)
