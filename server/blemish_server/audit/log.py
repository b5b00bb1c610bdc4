# SPDX-License-Identifier: Apache-2.0
"""The files of the audit log, to which all servers of a store append.

Files in the store hold the log rather than Redis. The log describes the content of the store and must
survive the loss of Redis, and a Redis that evicts keys would lose entries silently.

Each line is JSON. A lock between processes orders the appends, and each append is flushed to disk before it
returns. A crash can leave an incomplete line at the end of a file. The next append begins a new line, and
readers skip the incomplete one.

Files are numbered. A new file follows one of ``MAX_FILE_BYTES``. Files are never changed or deleted.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from blemish_core.platform.files import fsync
from blemish_core.platform.locks import process_lock
from blemish_server.audit.entry import AuditEntry, AuditFilter

MAX_FILE_BYTES = 64 << 20
"""Size from which on a file gets no further entries."""
_LOCK_WAIT_S = 5.0
_BLOCK_BYTES = 64 << 10
_MAX_LINE_BYTES = 1 << 20
# Bounds the time of one page of a filter that matches few entries.
_MAX_SCANNED_BYTES = 8 << 20
_CLOCK_TOLERANCE = timedelta(hours=1)
"""Difference between the clocks of servers, up to which filters by time find all entries."""
_NAME = re.compile(r"audit-(\d{6,})\.jsonl")


class Position(NamedTuple):
    """The start of a line."""

    file: int
    offset: int
    """Offset from the start of the file, in bytes."""


class AuditLog:
    """The audit log in a folder."""

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        """Use a folder, which the first append creates."""
        self._folder = folder
        self._max_file_bytes = max_file_bytes

    @property
    def folder(self) -> Path:
        return self._folder

    def append(self, lines: Sequence[bytes]) -> None:
        """Append lines and flush them to disk: all of them, or none.

        Raises:
            OSError: if they cannot be written.
            LockHeld: if another process holds the lock for seconds.
        """
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            fsync(self._folder.parent)
        with process_lock(self._folder / ".lock", wait_s=_LOCK_WAIT_S):
            file = self._newest()
            is_new = not file.exists()
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _append(descriptor, b"".join(lines))
            finally:
                os.close(descriptor)
            if is_new:
                fsync(self._folder)

    def page(
        self, wanted: AuditFilter, size: int, before: Position | None = None
    ) -> tuple[list[AuditEntry], Position | None]:
        """Return the newest entries before a position, and the position before which the next page ends.

        Args:
            wanted: conditions of the entries.
            size: largest number of entries. A page can have fewer although more follow.
            before: position from the page before, None for the newest entries.

        Returns:
            The entries, the newest first, and None in place of a position at the end.
        """
        found: list[AuditEntry] = []
        scanned = 0
        for position, line in self._lines(before):
            entry = AuditEntry.parse(line) if line else None
            if entry is not None:
                if wanted.start is not None and entry.written < wanted.start - _CLOCK_TOLERANCE:
                    return found, None
                if wanted.matches(entry):
                    found.append(entry)
            scanned += len(line) + 1
            if len(found) >= size or scanned >= _MAX_SCANNED_BYTES:
                return found, position
        return found, None

    def _lines(self, before: Position | None) -> Iterator[tuple[Position, bytes]]:
        """Yield all lines before a position, the last first."""
        for number in reversed(self._numbers()):
            if before is not None and number > before.file:
                continue
            with suppress(FileNotFoundError):  # a person may move files away
                size = self._file(number).stat().st_size
                end = min(size, before.offset) if before is not None and number == before.file else size
                for offset, line in _lines_backwards(self._file(number), end):
                    yield Position(number, offset), line

    def _newest(self) -> Path:
        """Return the file for the next entry."""
        numbers = self._numbers()
        if not numbers:
            return self._file(1)
        newest = self._file(numbers[-1])
        return newest if newest.stat().st_size < self._max_file_bytes else self._file(numbers[-1] + 1)

    def _numbers(self) -> list[int]:
        try:
            names = [entry.name for entry in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))

    def _file(self, number: int) -> Path:
        return self._folder / f"audit-{number:06}.jsonl"


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data  # a crash left an incomplete line
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _lines_backwards(file: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file before ``end``, the last first, each with its offset."""
    with file.open("rb") as opened:
        tail = b""
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            opened.seek(start)
            block = opened.read(end - start) + tail
            tail, *lines = block.split(b"\n")
            offset = start + len(block)
            for line in reversed(lines):
                offset -= len(line)
                yield offset, line
                offset -= 1
            if len(tail) > _MAX_LINE_BYTES:
                tail = b""  # damage, because no entry is as long
            end = start
        yield 0, tail
