# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps a second process out of a store's directory.

The engine repairs a shard's segments before it notices that another process holds the shard's log, and the
next flush of that process then fails. The directory is therefore locked before any shard is opened.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from blemish_core.platform.locks import LockHeld, process_lock
from blemish_local.qdrant.errors import StoreUnusable

LOCK = "lock"


@contextmanager
def only_process(directory: Path) -> Iterator[None]:
    """Hold ``directory``, which is created if missing, for this process.

    Raises:
        StoreUnusable: if another process holds it, or it cannot be written.
    """
    with ExitStack() as held:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(process_lock(directory / LOCK))
        except LockHeld as error:
            raise StoreUnusable(
                f"the directory {directory} is in use by process {error.holder}; "
                f"stop it (kill {error.holder}) or choose another directory with --dir"
            ) from error
        except OSError as error:
            raise StoreUnusable(
                f"the directory {directory} cannot be written ({error.strerror}); "
                "make it writable or choose another directory with --dir"
            ) from error
        yield
