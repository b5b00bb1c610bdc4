# SPDX-License-Identifier: Apache-2.0
"""Advisory locks between processes. The kernel releases them when their holder exits or is killed."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_S = 0.05


class LockHeld(Exception):
    """Another process holds the lock.

    Attributes:
        holder: process id of the holder, or "unknown".
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"the lock is held by process {holder}")
        self.holder = holder


@contextmanager
def process_lock(file: Path, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold an exclusive lock on ``file``, which then contains this process's id.

    Args:
        file: created if missing.
        wait_s: longest wait for another holder, in seconds.

    Yields:
        The descriptor that holds the lock. A child process that inherits it holds the lock too.

    Raises:
        LockHeld: if another process holds the lock.
        OSError: if the file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _acquire(descriptor, time.monotonic() + wait_s)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # a full disk, on which the lock holds nevertheless
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.read(descriptor, 32).decode(errors="replace").strip()
                raise LockHeld(holder or "unknown") from None
            time.sleep(_POLL_S)
        else:
            return
