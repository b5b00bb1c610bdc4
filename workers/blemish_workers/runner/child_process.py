# SPDX-License-Identifier: Apache-2.0
"""A child process as its worker has it: started, told a step, listened to, killed."""

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from blemish_core.jobs.messages import (
    END_OF_STEP,
    FROM_CHILD,
    CommitGranted,
    Done,
    Failed,
    Ready,
    Said,
    Step,
)

_KEPT_LINES = 2000
_LINES_WITHIN_S = 1.0
_SPARE_BYTES = 2 << 30  # a child that has worked holds libraries that a new one has not loaded yet

try:
    _PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
except (AttributeError, ValueError):
    _PAGE_BYTES = 4096


class ChildDied(Exception):
    """The child is gone; the text says how it ended."""


class ChildProcess:
    """A running ``blemish_workers.child``, which computes on ``device``."""

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
        self._said: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._lines: queue.Queue[str] = queue.Queue(_KEPT_LINES)
        self._all_read = threading.Event()
        self._ready: Ready | None = None
        self._ready_bytes = 0
        assert self._process.stdout is not None
        for name, run, stream in (
            ("said", self._listen, os.fdopen(reader, "rb")),
            ("lines", self._read_lines, self._process.stdout),
        ):
            threading.Thread(target=run, args=(stream,), name=f"child {name}", daemon=True).start()

    @property
    def device(self) -> str:
        """What it computes on; empty until it is ready."""
        return self._ready.device if self._ready else ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, message: Step | CommitGranted) -> None:
        """Hand it a step, or the answer to what it asked."""
        assert self._process.stdin is not None
        self._all_read.clear()
        with suppress(BrokenPipeError):  # its death is told by next()
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def next(self, timeout_s: float) -> Said | None:
        """Return what it says next, or None after a while.

        Raises:
            ChildDied: if it says nothing any more.
        """
        try:
            said = self._said.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if said is None:
            self._said.put(None)
            raise ChildDied(self._how_it_ended())
        if isinstance(said, Done | Failed):
            # That no line of this step is taken for one of the next.
            self._all_read.wait(_LINES_WITHIN_S)
        return said

    def lines(self) -> list[str]:
        """Take the lines that it has written since they were last taken."""
        taken: list[str] = []
        while True:
            try:
                taken.append(self._lines.get_nowait())
            except queue.Empty:
                return taken

    def memory_bytes(self) -> int:
        """Its resident memory; 0 where the system does not tell."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def swollen(self) -> bool:
        """Whether it still holds much of what its last job took."""
        return self.memory_bytes() > self._ready_bytes + _SPARE_BYTES

    def kill(self) -> None:
        """End it at once, whatever it does; nothing can be told it any more."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _listen(self, stream: BinaryIO) -> None:
        try:
            with stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break  # it died over this one
                    said = FROM_CHILD.validate_json(line)
                    if isinstance(said, Ready):
                        self._ready, self._ready_bytes = said, self.memory_bytes()
                    else:
                        self._said.put(said)
        finally:
            self._process.kill()  # one that cannot be heard is of no use
            self._said.put(None)

    def _read_lines(self, stream: BinaryIO) -> None:
        with stream:
            for read in stream:
                line = read.decode(errors="replace").rstrip()
                if line == END_OF_STEP:
                    self._all_read.set()
                    continue
                print(line, file=sys.stderr, flush=True)
                with suppress(queue.Full):  # Redis is away for long; the worker's own log has it
                    self._lines.put_nowait(line)

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + " (out of memory?)" * (-code == signal.SIGKILL)
