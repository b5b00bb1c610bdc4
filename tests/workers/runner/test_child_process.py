# SPDX-License-Identifier: Apache-2.0
"""A child is heard to its last whole word, and its death is told."""

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
READY = '{"said": "ready", "device": "cpu"}'
DONE = '{"said": "done"}'

Start = Callable[[str], ChildProcess]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Starts a child that runs ``script`` in place of blemish's; ``say`` is what it says with."""
    children: list[ChildProcess] = []

    def started(script: str) -> ChildProcess:
        file = tmp_path / "child.py"
        preamble = """
            import os, signal, sys
            def say(line): os.write(int(sys.argv[1]), line.encode())
        """
        file.write_text(textwrap.dedent(preamble) + textwrap.dedent(script))
        popen = subprocess.Popen

        def instead(command: list[str], **how: Any) -> Any:
            return popen([sys.executable, str(file), command[-1]], **how)

        monkeypatch.setattr(subprocess, "Popen", instead)
        children.append(ChildProcess("cpu"))
        return children[-1]

    yield started
    for child in children:
        child.kill()


def heard(child: ChildProcess) -> list[messages.Said]:
    """All that it says until it dies."""
    said: list[messages.Said] = []
    while True:
        try:
            if (word := child.next(10)) is not None:
                said.append(word)
        except ChildDied:
            return said


def test_a_step_is_told_done_and_its_lines_are_its_own(start: Start) -> None:
    child = start(f"""
        say({READY!r} + chr(10))
        for number, step in enumerate(sys.stdin):
            print("line of step", number)
            print({messages.END_OF_STEP!r}, flush=True)
            say({DONE!r} + chr(10))
    """)
    for number in range(20):
        child.tell(TRAIN)
        assert isinstance(child.next(10), messages.Done)
        assert child.lines() == [f"line of step {number}"]
    assert child.device == "cpu"
    assert child.memory_bytes() > 0
    child.kill()
    with pytest.raises(ChildDied, match="SIGKILL"):
        child.next(10)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was killed by SIGKILL \(out of memory\?\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os._exit(3)", "ended with exit code 3"),
    ],
)
def test_how_it_ended_is_told_again_and_again(start: Start, end: str, told: str) -> None:
    child = start(end)
    for _ in range(2):
        with pytest.raises(ChildDied, match=told):
            child.next(10)
    assert not child.alive
    child.tell(TRAIN)  # nobody is there to hear it


def test_a_word_that_it_died_over_is_not_heard(start: Start) -> None:
    child = start(f"""
        say({DONE!r} + chr(10) + {DONE[:8]!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert [type(word) for word in heard(child)] == [messages.Done]


def test_what_it_writes_is_kept_whatever_bytes_it_has(start: Start) -> None:
    child = start("""
        os.write(1, bytes([255, 254]) + b" half a word " + bytes([10]) + b"no end")
    """)
    assert heard(child) == []
    lines: list[str] = []
    give_up = time.monotonic() + 10
    while len(lines) < 2 and time.monotonic() < give_up:
        lines += child.lines()
    assert [line.endswith(end) for line, end in zip(lines, (" half a word", "no end"), strict=True)] == [
        True,
        True,
    ]


def test_a_child_that_closes_its_mouth_is_ended(start: Start) -> None:
    child = start("""
        os.close(int(sys.argv[1]))
        signal.pause()
    """)
    with pytest.raises(ChildDied):
        child.next(10)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, signal.SIG_DFL)
