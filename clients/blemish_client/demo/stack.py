# SPDX-License-Identifier: Apache-2.0
"""The embedded stack as a child process that always ends with the demo."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from blemish_client.cli.failures import UNSUCCESSFUL, Failure

_COMMAND = (sys.executable, "-P", "-m", "blemish_local", "up", "--no-console")
_READY_WITHIN_S = 180.0
_STOPPED_WITHIN_S = 40.0
_TAIL_LINES = 12
# They would point the demo at a shared store or broker, or make the server ask for a token.
_NOT_HANDED_ON = frozenset(
    {
        "REDIS_URL",
        "QDRANT_URL",
        "QDRANT_GRPC_PORT",
        "QDRANT_API_KEY",
        "QDRANT_PROXY",
        "BLEMISH_STORE",
        "BLEMISH_LISTEN",
        "BLEMISH_IMPORT_ROOTS",
        "BLEMISH_ACCESS_FILE",
        "BLEMISH_TLS_CERTIFICATE",
        "BLEMISH_TLS_KEY",
    }
)


@dataclass(frozen=True)
class DemoStack:
    """A running embedded stack."""

    address: str
    """HOST:PORT of the server."""
    data: Path
    log: Path
    child: subprocess.Popen[bytes]

    def death(self) -> Failure | None:
        """Return how the stack ended; None while it runs."""
        return None if self.child.poll() is None else _death(self.child, self.log)


@contextmanager
def running(data: Path, import_root: Path, command: Sequence[str] = _COMMAND) -> Iterator[DemoStack]:
    """Start the stack over the folder ``data`` and stop it at the end.

    Raises:
        Failure: if the stack does not start; the message holds the end of its log.
    """
    data.mkdir(parents=True, exist_ok=True)
    address_file, log = data / "address", data / "up.log"
    address_file.unlink(missing_ok=True)
    arguments = ("--data", data, "--listen", "127.0.0.1:0", "--address-file", address_file)
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON}
    # A PatchCore training keeps about one core busy, so two of them share two cores well.
    environment.setdefault("BLEMISH_CONCURRENCY", str(min(2, os.cpu_count() or 1)))
    environment.setdefault("BLEMISH_MEASURE_RATES", "false")  # the folder does not last
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*command, *map(str, arguments), "--import-root", str(import_root), "--stop-with-stdin"],
            stdin=subprocess.PIPE,  # the stack stops when this end is closed
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C is for the demo, which then stops the stack in order.
            start_new_session=True,
        )
        try:
            yield DemoStack(_address(child, address_file, log), data, log, child)
        finally:
            try:
                _stop(child)
            finally:
                if child.stdin is not None:
                    child.stdin.close()


def _address(child: subprocess.Popen[bytes], address_file: Path, log: Path) -> str:
    give_up = time.monotonic() + _READY_WITHIN_S
    while not address_file.exists():
        if child.poll() is not None:
            raise _death(child, log)
        if time.monotonic() > give_up:
            late = f"the server is not ready after {_READY_WITHIN_S:.0f} s"
            raise Failure(f"{late}:\n{_tail(log)}", UNSUCCESSFUL)
        time.sleep(0.1)
    return address_file.read_text().strip()


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        _kill(child)
    except KeyboardInterrupt:
        _kill(child)
        raise


def _kill(child: subprocess.Popen[bytes]) -> None:
    # The stack's processes die with it.
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _death(child: subprocess.Popen[bytes], log: Path) -> Failure:
    return Failure(f"the server ended with code {child.returncode}:\n{_tail(log)}", UNSUCCESSFUL)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  its log is empty"


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Make SIGTERM and SIGHUP unwind the calls as Ctrl-C does, so that children are stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
