# SPDX-License-Identifier: Apache-2.0
"""One process a directory: a second one that merely tries to open a shard damages it.

The engine opens a shard's segments, and repairs them, before it finds that another process
holds its log; that one's next flush then fails. So the directory is held before any shard.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blemish_local.qdrant.errors import StoreUnusable

LOCK = "lock"


@contextmanager
def only_process(directory: Path) -> Iterator[None]:
    """Hold ``directory``, made if missing, for this process.

    Raises:
        StoreUnusable: if another process holds it, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"the directory {directory} cannot be written ({error.strerror}): "
            "mend that or choose another with --dir"
        ) from error
    # The lock goes with the descriptor, so also with a process that is killed.
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read(32).strip() or "unknown"
            raise StoreUnusable(
                f"the directory {directory} is in use by process {holder}: "
                f"stop it (kill {holder}) or choose another with --dir"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
