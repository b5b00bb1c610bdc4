# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, through a crash at any moment."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from blemish_core.platform.errors import DiskFull


def fsync(path: Path) -> None:
    """Have the kernel put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Have the kernel put a folder and all that is below it on the disk."""
    for entry in folder.iterdir():
        if entry.is_dir():
            fsync_tree(entry)
        else:
            fsync(entry)
    fsync(folder)


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Have what finds no room on the disk of ``folder`` become DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk that holds {folder} is full: make room, or move the store (BLEMISH_STORE)"
        ) from error


def atomic_write(path: Path, data: bytes) -> None:
    """Write or replace ``path``: readers see the old content or the new, also after a power cut."""
    _write(path, data, lambda staged: staged.replace(path))


def atomic_create(path: Path, data: bytes) -> None:
    """Write ``path``, which must not be there: of several that try, on any machine, one succeeds.

    Raises:
        FileExistsError: if it is there.
    """
    # A link fails where a rename would replace.
    _write(path, data, path.hardlink_to)


def _write(path: Path, data: bytes, put: Callable[[Path], object]) -> None:
    """Have ``put`` give whole content its name."""
    staged = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        staged.write_bytes(data)
        fsync(staged)
        put(staged)
    finally:
        staged.unlink(missing_ok=True)
    fsync(path.parent)
