# SPDX-License-Identifier: Apache-2.0
"""Durable files and directories: complete or absent, also after a crash or a power cut."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from uuid import uuid4

from blemish_core.platform.errors import DiskFull

_CHUNK_BYTES = 16 << 20


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
    """Raise DiskFull in place of an OSError about missing space or quota."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk that holds {folder} is full; free some space or move the store (BLEMISH_STORE)"
        ) from error


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


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; links are followed.

    Nothing else is opened, because a FIFO blocks its reader and a device has no end.

    Raises:
        OSError: if it is not a regular file, has more than ``max_bytes``, or cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    # The file may have been replaced by a FIFO, which then does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return _read_all(descriptor, path, max_bytes)


def read_below(root: Path, path: PurePath, max_bytes: int) -> bytes:
    """Return the content of a regular file below a folder, without following any link on the way.

    A folder or file that another process replaces by a link in the meantime is not followed either.

    Args:
        root: the folder; links in its own path are followed.
        path: path of the file relative to ``root``.
        max_bytes: largest size of the file.

    Raises:
        ValueError: if ``path`` does not lead to something below ``root``.
        OSError: if it is not a regular file, has more than ``max_bytes``, changes while it is read, or
            cannot be read.
    """
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} is not a path below {root}")
    *folders, name = path.parts
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=at)
    finally:
        os.close(at)
    return _read_all(descriptor, path, max_bytes)


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


def _read_all(descriptor: int, path: PurePath, max_bytes: int) -> bytes:
    """Read an open file once and close it."""
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if before.st_size > max_bytes:
            raise _too_long(path, f"{before.st_size} bytes", max_bytes)
        parts = []
        left = max_bytes + 1
        while left and (part := os.read(descriptor, min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise _too_long(path, "too many bytes", max_bytes)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError(errno.EBUSY, "it was changed while it was read", str(path))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def _too_long(path: PurePath, size: str, max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size}, more than the {max_bytes} allowed", str(path))


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}")
