# SPDX-License-Identifier: Apache-2.0
"""Memory of the files of a hot folder, across restarts."""

import errno
import json
import os
import stat
import sys
import uuid
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self, TextIO

if sys.platform != "win32":
    import fcntl

_KEPT_ENTRIES = 10_000
"""Entries of files that are gone, up to which the state file is not rewritten."""


@dataclass(frozen=True)
class FileIdentity:
    """A version of a file: it changes with the content, but not with the name."""

    path: str
    """Path relative to the folder."""
    inode: int
    size: int
    """Size in bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, folder: Path, file: Path) -> Self | None:
        """Return the identity of a file, None if it is not a regular file.

        Raises:
            OSError: if it does not exist.
        """
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        return cls(str(file.relative_to(folder)), status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def keys(self) -> tuple[tuple[str | int, int, int], ...]:
        """Keys of which one stays the same: by inode if it is renamed, by path if it is copied back."""
        by_path = (self.path, self.size, self.mtime_ns)
        return ((self.inode, self.size, self.mtime_ns), by_path) if self.inode else (by_path,)


class SeenFiles:
    """The files that were scored, in a file with one entry a line, and those taken in this run."""

    def __init__(self, state: Path) -> None:
        """Read the state file, which may not exist yet, and lock it against other processes.

        Raises:
            OSError: if it cannot be read, its folder cannot be created, or another process uses it.
        """
        self._state = state
        self._entries: list[FileIdentity] = []
        self._keys: set[tuple[str | int, int, int]] = set()
        state.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened(state)
        lines = state.read_text("utf-8", "surrogateescape").splitlines()
        for line in lines:
            try:
                path, inode, size, mtime_ns = json.loads(line)
            except ValueError:
                continue  # the last line of a process that was killed
            self._entries.append(FileIdentity(path, inode, size, mtime_ns))
            self.take(self._entries[-1])
        if lines and state.stat().st_size and not _ends_with_newline(state):
            self._file.write("\n")

    def __len__(self) -> int:
        """Return the number of files that were scored."""
        return len(self._entries)

    def contains(self, identity: FileIdentity) -> bool:
        """Return whether a file was scored or taken, under this or another name."""
        return any(key in self._keys for key in identity.keys)

    def take(self, identity: FileIdentity) -> None:
        """Leave a file out in this run."""
        self._keys.update(identity.keys)

    def add(self, identity: FileIdentity) -> None:
        """Record that a file was scored. It is on its way to the disk when this returns."""
        self.take(identity)
        self._entries.append(identity)
        self._file.write(_line(identity))
        self._file.flush()

    def forget_missing(self, present: Iterable[FileIdentity]) -> None:
        """Rewrite the state file without files that are gone, if there are many of these."""
        keys = {key for identity in present for key in identity.keys}
        kept = [entry for entry in self._entries if any(key in keys for key in entry.keys)]
        if len(self._entries) - len(kept) <= _KEPT_ENTRIES:
            return
        staged = self._state.with_name(f".{self._state.name}.{uuid.uuid4().hex}")
        rewritten = _opened(staged)
        rewritten.write("".join(map(_line, kept)))
        rewritten.flush()
        staged.replace(self._state)
        self._file.close()
        self._file = rewritten
        self._entries = kept
        self._keys = {key for entry in kept for key in entry.keys}

    def close(self) -> None:
        self._file.close()


def _opened(state: Path) -> TextIO:
    """Open and lock a state file. The lock ends when it is closed, also by the death of the process."""
    file = state.open("a", encoding="utf-8", errors="surrogateescape")
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(errno.EBUSY, "another process uses it", str(state)) from None
    return file


def _line(identity: FileIdentity) -> str:
    return json.dumps(astuple(identity)) + "\n"


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() == b"\n"
