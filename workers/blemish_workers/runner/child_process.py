# SPDX-License-Identifier: Apache-2.0
"""A child process from the side of its worker."""

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from blemish_core.jobs.messages import END_OF_STEP, FROM_CHILD, Done, Failed, FromChild, Ready, ToChild

_MAX_LINES = 2000
_LOG_TIMEOUT_S = 1.0
_EXCESS_BYTES = 2 << 30  # above the libraries that a first job loads

try:
    _PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
except (AttributeError, ValueError):
    _PAGE_BYTES = 4096


class ChildDied(Exception):
    """The child process ended; the message describes how."""


class ChildProcess:
    """A running ``blemish_workers.child`` that computes on ``device``."""

    def __init__(self, device: str) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb"):
            self._process = subprocess.Popen(
                # -P: a file in the working directory must not shadow a module.
                [sys.executable, "-P", "-m", "blemish_workers.child", str(writer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                env=os.environ | {"BLEMISH_DEVICE": device},
            )
        self._received: queue.SimpleQueue[FromChild | None] = queue.SimpleQueue()
        self._lines: queue.Queue[str] = queue.Queue(_MAX_LINES)
        self._log_complete = threading.Event()
        self._ready: Ready | None = None
        self._ready_bytes = 0
        assert self._process.stdout is not None
        for name, run, stream in (
            ("messages", self._receive_messages, os.fdopen(reader, "rb")),
            ("log", self._read_log, self._process.stdout),
        ):
            threading.Thread(target=run, args=(stream,), name=f"child {name}", daemon=True).start()

    @property
    def device(self) -> str:
        """Device that the child reported; empty until it is ready."""
        return self._ready.device if self._ready else ""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True if the process runs."""
        return self._process.poll() is None

    def send(self, message: ToChild) -> None:
        """Send a message; if the child is dead, the next ``receive`` raises."""
        assert self._process.stdin is not None
        self._log_complete.clear()
        with suppress(BrokenPipeError):
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_s: float) -> FromChild | None:
        """Return the next message, or None if there is none within the timeout.

        Raises:
            ChildDied: if the child is dead and all its messages are received.
        """
        try:
            message = self._received.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if message is None:
            self._received.put(None)
            raise ChildDied(self._exit_description())
        if isinstance(message, Done | Failed):
            # Wait for the rest of the log, so that no line of this step counts for the next one.
            self._log_complete.wait(_LOG_TIMEOUT_S)
        return message

    def lines(self) -> list[str]:
        """Return and remove the log lines since the last call."""
        taken: list[str] = []
        while True:
            try:
                taken.append(self._lines.get_nowait())
            except queue.Empty:
                return taken

    def memory_bytes(self) -> int:
        """Return the resident memory in bytes; 0 where the system does not report it."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def holds_excess_memory(self) -> bool:
        """Return True if the child still holds much of the memory of its last job."""
        return self.memory_bytes() > self._ready_bytes + _EXCESS_BYTES

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _receive_messages(self, stream: BinaryIO) -> None:
        try:
            with stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break  # the child died while writing
                    message = FROM_CHILD.validate_json(line)
                    if isinstance(message, Ready):
                        self._ready, self._ready_bytes = message, self.memory_bytes()
                    else:
                        self._received.put(message)
        finally:
            self._process.kill()  # a child that cannot report is of no use
            self._received.put(None)

    def _read_log(self, stream: BinaryIO) -> None:
        with stream:
            for read in stream:
                line = read.decode(errors="replace").rstrip()
                if line == END_OF_STEP:
                    self._log_complete.set()
                    continue
                print(line, file=sys.stderr, flush=True)
                with suppress(
                    queue.Full
                ):  # Redis has been down for long; the worker's own log has the line
                    self._lines.put_nowait(line)

    def _exit_description(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + " (out of memory?)" * (-code == signal.SIGKILL)
