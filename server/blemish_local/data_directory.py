# SPDX-License-Identifier: Apache-2.0
"""The folder in which everything of one stack lies, and the claim that keeps a second one out."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LEASHES_GONE_S = 3.0
"""How long the processes of a killed supervisor may take to be gone."""


class DirectoryUnusable(Exception):
    """The folder is taken or cannot be written; the text says which, and the cure."""


@dataclass(frozen=True)
class DataDirectory:
    root: Path

    @property
    def store(self) -> Path:
        """Datasets and model bundles."""
        return self.root / "store"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def qdrant(self) -> Path:
        return self.root / "qdrant"

    @property
    def qdrant_server(self) -> Path:
        """Of a ``qdrant`` on PATH, whose files the embedded engine cannot read, nor the reverse."""
        return self.root / "qdrant-server"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What is true only while the stack runs."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"


@contextlib.contextmanager
def claim(data: DataDirectory) -> Iterator[int]:
    """Hold the folder for this process; yield the descriptor that holds it.

    Who inherits the descriptor holds the folder too: the leashes do, so that a new stack
    waits until the last process of a killed one is gone from its files.

    Raises:
        DirectoryUnusable: if another stack runs there or it cannot be written.
    """
    with _explained(data.root):
        data.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked_in_time(descriptor):
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise DirectoryUnusable(
                f"the data folder {data.root} is in use by process {holder}: "
                f"stop it (kill {holder}) or choose another with --data"
            )
        with _explained(data.root):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            for folder in (data.store, data.logs, data.run):
                folder.mkdir(exist_ok=True)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DirectoryUnusable(
            f"the data folder {root} cannot be written ({error.strerror}): "
            "mend that or choose another with --data"
        ) from error


def _locked_in_time(descriptor: int) -> bool:
    give_up = time.monotonic() + _LEASHES_GONE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        else:
            return True
