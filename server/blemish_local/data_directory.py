# SPDX-License-Identifier: Apache-2.0
"""The data folder of one stack, and the claim that keeps a second stack out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blemish_core.platform.locks import LockHeld, process_lock

_LEASHES_GONE_S = 3.0
"""Longest wait for the processes of a killed supervisor to end."""


class DirectoryUnusable(Exception):
    """A data folder that is in use or cannot be written."""


@dataclass(frozen=True)
class DataDirectory:
    """The layout of a data folder."""

    root: Path

    @property
    def store(self) -> Path:
        """Folder of datasets and model bundles."""
        return self.root / "store"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def qdrant(self) -> Path:
        return self.root / "qdrant"

    @property
    def qdrant_server(self) -> Path:
        """Folder of a ``qdrant`` from PATH, whose file format differs from the embedded engine's."""
        return self.root / "qdrant-server"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Folder of files that are valid only while the stack runs."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"


@contextlib.contextmanager
def claim(data: DataDirectory, wait_s: float = _LEASHES_GONE_S) -> Iterator[int]:
    """Hold the folder for this process, waiting for a previous holder; yield the descriptor that holds it.

    A process that inherits the descriptor holds the folder too. The leashes do, so a new stack waits until
    the last process of a killed stack no longer uses the files.

    Raises:
        DirectoryUnusable: if another stack runs there or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            data.root.mkdir(parents=True, exist_ok=True)
            descriptor = held.enter_context(process_lock(data.lock, wait_s=wait_s))
            for folder in (data.store, data.logs, data.run):
                folder.mkdir(exist_ok=True)
        except LockHeld as error:
            raise DirectoryUnusable(
                f"the data folder {data.root} is in use by process {error.holder}; "
                f"stop it (kill {error.holder}) or choose another folder with --data"
            ) from error
        except OSError as error:
            raise DirectoryUnusable(
                f"the data folder {data.root} cannot be written ({error.strerror}); "
                "make it writable or choose another folder with --data"
            ) from error
        yield descriptor
