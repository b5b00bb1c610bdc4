# SPDX-License-Identifier: Apache-2.0
"""Durable files and directories: complete or absent, also after a crash or a power cut."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from blemish_core.platform.disk import StoreDisk, is_for_lack_of_space
from blemish_core.platform.errors import BlemishError, DiskFull

_NOTHING_BYTES = 1 << 20
"""Free space that is left by a file that did not fit, at most."""


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush a directory and everything below it to disk."""
    for entry in folder.iterdir():
        if entry.is_dir():
            fsync_tree(entry)
        else:
            fsync(entry)
    fsync(folder)


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Raise DiskFull in place of an error about missing space or quota.

    Streams of C++ fail without a reason, so their errors count if the disk has no space at that moment.
    """
    try:
        yield
    except Exception as error:
        is_full = is_for_lack_of_space(error) or (isinstance(error, RuntimeError) and _is_full(folder))
        if isinstance(error, BlemishError) or not is_full:
            raise
        raise DiskFull(
            f"the disk that holds {folder} is full; free some space or move the store (BLEMISH_STORE)"
        ) from error


def _is_full(folder: Path) -> bool:
    return StoreDisk(folder, 0).space().free_bytes < _NOTHING_BYTES


def atomic_write(path: Path, data: bytes) -> None:
    """Write or replace ``path`` durably; a reader sees the old content or the new."""
    with staged_file(path) as staged:
        staged.write_bytes(data)


def atomic_create(path: Path, data: bytes) -> None:
    """Write ``path`` durably if it does not exist; of several concurrent writers exactly one succeeds.

    Raises:
        FileExistsError: if ``path`` exists.
    """
    staged = _staged(path)
    try:
        staged.write_bytes(data)
        fsync(staged)
        path.hardlink_to(staged)  # fails if the path exists, where a rename would replace it
    finally:
        staged.unlink(missing_ok=True)
    fsync(path.parent)


@contextmanager
def staged_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same directory; on success the file there replaces ``path``.

    Args:
        path: the file to write or replace.
        durable: flush the file and the directory to disk.
    """
    staged = _staged(path)
    try:
        yield staged
        if durable:
            fsync(staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    if durable:
        fsync(path.parent)


def is_staged(entry: Path, path: Path) -> bool:
    """Return whether ``entry`` is a leftover of an interrupted write of ``path``."""
    return entry.name.startswith(f".{path.name}.")


@contextmanager
def staged_directory(staging: Path) -> Iterator[Path]:
    """Create ``staging`` and yield it; remove it at the end unless it was published."""
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish_directory(staging: Path, target: Path, commit: Callable[[], object] = lambda: None) -> bool:
    """Flush ``staging`` to disk and rename it to ``target``; return False if ``target`` exists.

    ``commit`` runs right before the rename and prevents it by raising.
    """
    fsync_tree(staging)
    commit()
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    fsync(target.parent)
    return True


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}")
