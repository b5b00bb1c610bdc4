# SPDX-License-Identifier: Apache-2.0
"""Reading of files that other programs have written, and that they may replace in the meantime."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

_CHUNK_BYTES = 16 << 20
# A FIFO does not block its reader, and a terminal does not become that of the process.
_SAFELY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; links are followed.

    Nothing else is opened, because a FIFO blocks its reader and a device has no end.

    Raises:
        OSError: if it is not a regular file, has more than ``max_bytes``, or cannot be read.
    """
    return _read_all(_opened(path), path, max_bytes)


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
            raise _not_regular(path)
        descriptor = os.open(name, _SAFELY | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)
    return _read_all(descriptor, path, max_bytes)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; links are followed.

    Raises:
        OSError: if it is not a regular file, or cannot be opened.
    """
    descriptor = _opened(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(path)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def walk(
    root: Path, on_error: Callable[[OSError], None] | None = None, *, follow_links: bool = False
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the folders below ``root`` as ``os.walk`` does, however deep they are.

    ``os.walk`` calls itself for each level before Python 3.12.

    Args:
        root: folder to begin with.
        on_error: called with the error of a folder that cannot be read.
        follow_links: True to enter folders to which links lead.

    Yields:
        Path, names of folders, and names of other entries. Names that the caller removes are not entered.
    """
    pending = [os.fspath(root)]
    while pending:
        folder = pending.pop()
        folders: list[str] = []
        others: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else others).append(entry.name)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        yield folder, folders, others
        inner = (os.path.join(folder, name) for name in reversed(folders))  # noqa: PTH118
        pending += [each for each in inner if follow_links or not os.path.islink(each)]  # noqa: PTH114


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _opened(path: Path) -> int:
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)
    return os.open(path, _SAFELY)  # it may have been replaced in the meantime


def _read_all(descriptor: int, path: PurePath, max_bytes: int) -> bytes:
    """Read an open file once and close it."""
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _not_regular(path)
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


def _not_regular(path: PurePath) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))
