# SPDX-License-Identifier: Apache-2.0
"""The index of a dataset: one line of JSON per image, appended once the image's file is on disk.

An image exists from the moment its line is complete, so a crash leaves it complete or absent. Writers in
all threads and processes exclude each other with ``flock`` on a file of the dataset; readers need no lock.
The next writer overwrites a truncated line. A lost or damaged index is rebuilt from the files, together
with the lines that are still readable.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from typing import BinaryIO
from uuid import uuid4

import structlog
from pydantic import ValidationError

from blemish_core.datasets.layout import PARTS, Key, LayoutPath
from blemish_core.datasets.records import IndexEntry
from blemish_core.imaging.decode import ImageLimits, read_mask, verify
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, NotFound
from blemish_core.platform.files import atomic_write, fsync

INDEX = "index.jsonl"
LOCK = ".lock"

# The random first line distinguishes a rebuilt index from the previous one; inode numbers can be reused.
_HEAD = re.compile(rb'\{"index":"[0-9a-f]{32}"\}\n')
_HEAD_BYTES = 45


log = structlog.get_logger(__name__)


class Index:
    """The index of one dataset folder. Safe to share between threads."""

    def __init__(self, folder: Path, limits: ImageLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._path = folder / INDEX
        self._reading = Lock()
        self._writing = RLock()  # makes the flock, which belongs to a descriptor, reentrant
        self._depth = 0
        self._swept = False
        self._reset()

    def entries(self) -> list[IndexEntry]:
        """Return all entries, sorted by path."""
        self._refresh()
        with self._reading:
            return sorted(self._entries.values(), key=lambda entry: entry.path)

    def find(self, path: str) -> IndexEntry | None:
        self._refresh()
        with self._reading:
            return self._entries.get(path)

    def partner(self, path: LayoutPath) -> IndexEntry | None:
        """Return the mask of an image or the image of a mask, if it exists."""
        self._refresh()
        with self._reading:
            for key in path.partners:
                if key in self._by_key:
                    return self._entries[self._by_key[key]]
        return None

    def contains(self, path: str, sha256: str) -> bool:
        """Return whether ``path`` has this content.

        Raises:
            AlreadyExists: if ``path`` has other content.
        """
        existing = self.find(path)
        if existing is not None and existing.sha256 != sha256:
            raise AlreadyExists(
                f"{path} already exists with other content, sha256 {existing.sha256}; "
                "give the new image another name"
            )
        return existing is not None

    @contextmanager
    def writing(self) -> Iterator[Callable[[IndexEntry, bytes], bool]]:
        """Hold the write lock and yield a function that stores an image and returns whether it was new.

        The lines are appended together at the end, also after an error. The function raises AlreadyExists
        if the path has other content, and InvalidRequest if an image and its mask differ in size.
        """
        stored: list[IndexEntry] = []

        def store(entry: IndexEntry, data: bytes) -> bool:
            if self.contains(entry.path, entry.sha256):
                return False
            self._check_partner(entry, stored)
            self._store(entry, data)
            stored.append(entry)
            return True

        with self.exclusive():
            self._sweep()
            self._refresh()
            try:
                yield store
            finally:
                self._append(stored)

    def select(self, paths: Iterable[str]) -> list[IndexEntry]:
        """Return the entries at ``paths`` and the masks of the images among them, without duplicates.

        Raises:
            NotFound: if a path has no entry.
        """
        found: dict[str, IndexEntry] = {}
        for path in paths:
            entry = self.find(path)
            if entry is None:
                raise NotFound(f"the dataset has no {path}")
            found[path] = entry
            mask = None if entry.layout_path.part == "ground_truth" else self.partner(entry.layout_path)
            if mask is not None:
                found[mask.path] = mask
        return list(found.values())

    def remove(self, paths: Iterable[str]) -> None:
        """Remove the entries at ``paths`` from the index, then delete their files.

        Raises:
            NotFound: if a path has no entry; nothing is removed then.
        """
        with self.exclusive():
            removed = set(paths)
            entries = self.entries()
            if missing := removed - {entry.path for entry in entries}:
                raise NotFound(f"the dataset has no {min(missing)}")
            remaining = [entry for entry in entries if entry.path not in removed]
            atomic_write(self._path, new_index() + _lines(remaining))
            for path in removed:
                _discard(self._folder / path)

    def _check_partner(self, entry: IndexEntry, stored: Sequence[IndexEntry]) -> None:
        keys = entry.layout_path.partners
        partner = next((other for other in stored if other.layout_path.key in keys), None) or self.partner(
            entry.layout_path
        )
        if partner and (partner.width, partner.height) != (entry.width, entry.height):
            raise InvalidRequest(
                f"{entry.path} is {entry.width} x {entry.height} px, but {partner.path} is "
                f"{partner.width} x {partner.height}; an image and its mask must have the same size",
                field="image",
            )

    def _store(self, entry: IndexEntry, data: bytes) -> None:
        file = self._folder / entry.path
        try:
            if file.parent not in self._safe_folders:
                file.parent.mkdir(parents=True, exist_ok=True)
                fsync(file.parent.parent)
                fsync(self._folder)
                self._safe_folders.add(file.parent)
            atomic_write(file, data)
        except OSError:
            _discard(file)
            raise

    def _append(self, stored: Sequence[IndexEntry]) -> None:
        """Append the entries' lines; on failure, delete the files without a line."""
        if not stored:
            return
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._offset)  # removes a truncated line
                file.seek(self._offset)
                file.write(_lines(stored))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            for entry in stored:
                if self.find(entry.path) is None:
                    _discard(self._folder / entry.path)
            raise
        self._refresh()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the write lock.

        Raises:
            NotFound: if the dataset was deleted.
        """
        with self._writing, ExitStack() as held:
            if self._depth == 0:
                held.enter_context(_locked(self._folder / LOCK))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _sweep(self) -> None:
        """Delete temporary files of killed writers, once. The caller holds the write lock."""
        if not self._swept:
            self._swept = True
            for part in PARTS:
                for staged in (self._folder / part).glob("*/.*"):
                    _discard(staged)

    def _refresh(self) -> None:
        """Read the lines that were appended since the last read; rebuild an unreadable index."""
        with self._reading:
            if self._read_new_lines():
                return
            self._reset()
            if self._read_new_lines():
                return
        with self.exclusive():
            with self._reading:
                self._reset()
                if self._read_new_lines():  # another writer has rebuilt it
                    return
                found = self._rebuilt()
            atomic_write(self._path, new_index() + _lines(found))
            log.warning("index rebuilt", index=str(self._path), images=len(found))
            with self._reading:
                self._reset()
                self._read_new_lines()

    def _reset(self) -> None:
        self._head = b""
        self._offset = 0
        self._entries: dict[str, IndexEntry] = {}
        self._by_key: dict[Key, str] = {}
        self._safe_folders: set[Path] = set()  # directories known to be on disk

    def _read_new_lines(self) -> bool:
        """Read new complete lines; return False if the index is missing or damaged."""
        try:
            with self._path.open("rb") as file:
                return self._read_from(file)
        except FileNotFoundError:
            return False

    def _read_from(self, file: BinaryIO) -> bool:
        head = file.readline(_HEAD_BYTES)
        if not _HEAD.fullmatch(head):
            return False
        if head != self._head:
            self._reset()
            self._head, self._offset = head, len(head)
        file.seek(self._offset)
        complete = file.read().rpartition(b"\n")[0]
        if not complete:
            return True
        for line in complete.split(b"\n"):
            entry = _entry(line)
            if entry is None:
                return False
            self._entries[entry.path] = entry
            key = entry.layout_path.key
            self._by_key[key] = min(entry.path, self._by_key.get(key, entry.path))
        self._offset += len(complete) + 1
        return True

    def _rebuilt(self) -> list[IndexEntry]:
        """Return the entries of all files, taken from the readable lines where they exist."""
        with suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n"):
                if entry := _entry(line):
                    self._entries[entry.path] = entry
        found = []
        for part in PARTS:
            for file in sorted((self._folder / part).glob("*/[!.]*")):
                path = file.relative_to(self._folder).as_posix()
                with suppress(InvalidRequest):  # not an image in the layout
                    known = self._entries.get(path)
                    found.append(
                        known or make_entry(LayoutPath.parse(path), file.read_bytes(), self._limits)
                    )
        return found


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock on ``file``, even if it was replaced while waiting.

    Raises:
        NotFound: if the folder does not exist.
    """
    while True:
        try:
            lock = file.open("ab")
        except FileNotFoundError as error:
            raise NotFound(f"datasets/{file.parent.name} was deleted") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the descriptor closes
            # If the dataset was deleted during the wait, this is the lock of the deleted file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    yield
                    return


def new_index() -> bytes:
    """Return the content of an empty index."""
    return b'{"index":"%s"}\n' % uuid4().hex.encode()


def make_entry(path: LayoutPath, data: bytes, limits: ImageLimits) -> IndexEntry:
    """Decode an image or a mask completely and return its entry.

    Raises:
        InvalidImage: if the data is not an image within the limits.
    """
    if path.part == "ground_truth":
        height, width = read_mask(data, limits).shape
    else:
        header = verify(data, limits)
        height, width = header.height, header.width
    return IndexEntry(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        width=width,
        height=height,
    )


def _entry(line: bytes) -> IndexEntry | None:
    try:
        entry = IndexEntry.model_validate_json(line)
        LayoutPath.parse(entry.path)  # a path from a damaged index must not leave the dataset either
    except (ValidationError, InvalidRequest):
        return None
    return entry


def _lines(entries: Sequence[IndexEntry]) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)


def _discard(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
