# SPDX-License-Identifier: Apache-2.0
"""Processes that tests start, and the wait until they are ready."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN_S = 90.0
_STOP_WITHIN_S = 30.0

Process = subprocess.Popen[bytes] | subprocess.Popen[str]


@contextmanager
def running(*command: str, folder: Path | None = None, **environment: str) -> Iterator[Process]:
    """Run a command with additional environment variables, and stop it at the end."""
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        stop(process)


def stop(process: Process) -> None:
    """Terminate a process, and kill it if it does not end."""
    process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def wait_for_file(path: Path, process: Process, within_s: float = READY_WITHIN_S) -> str:
    """Return the text of a file once the process has written it."""
    _wait(path.exists, process, f"{path} was not written", within_s)
    return path.read_text().strip()


def wait_for_text(path: Path, text: str, process: Process, within_s: float = READY_WITHIN_S) -> None:
    """Return once a file contains a text."""

    def contains() -> bool:
        return path.exists() and text in path.read_text()

    _wait(contains, process, f"{text!r} was not written to {path}", within_s)


def wait_for_port(address: str, process: Process, within_s: float = READY_WITHIN_S) -> None:
    """Return once the process listens on HOST:PORT."""
    host, _, port = address.rpartition(":")

    def connects() -> bool:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    _wait(connects, process, f"there is no listener on {address}", within_s)


def _wait(condition: Callable[[], bool], process: Process, failure: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, f"{failure}: the process exited with {process.returncode}"
        assert time.monotonic() < deadline, f"{failure} within {within_s:g} s"
        time.sleep(0.05)
