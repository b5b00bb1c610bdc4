# SPDX-License-Identifier: Apache-2.0
"""The index of a dataset: a line of JSON for each image that is there, appended when its file is safe.

A file counts from the moment its line is whole, so a crash leaves an image there or not there. Writers
exclude each other, threads and processes alike, by ``flock`` on a file of the dataset; readers need no
lock. A line that was cut off is overwritten by the next writer. An index that is lost or damaged is made
anew from the files, keeping what can still be read.
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

# The first line tells an index from one made anew, which inode numbers do not: they are given again.
_HEAD = re.compile(rb'\{"index":"[0-9a-f]{32}"\}\n')
_HEAD_BYTES = 45


log = structlog.get_logger(__name__)


class Index:
    """The images of one dataset folder. Safe to share between threads."""

    def __init__(self, folder: Path, limits: ImageLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._path = folder / INDEX
        self._reading = Lock()
        self._writing = RLock()  # flock knows descriptors, not threads: this one makes it reentrant
        self._depth = 0
        self._swept = False
        self._forget()

    def entries(self) -> list[IndexEntry]:
        """All that is there, by path."""
        self._refresh()
        with self._reading:
            return sorted(self._entries.values(), key=lambda entry: entry.path)

    def find(self, path: str) -> IndexEntry | None:
        self._refresh()
        with self._reading:
            return self._entries.get(path)

    def partner(self, slot: LayoutPath) -> IndexEntry | None:
        """The mask of an image or the image of a mask, if it is there."""
        self._refresh()
        with self._reading:
            for key in slot.partners:
                if key in self._by_key:
                    return self._entries[self._by_key[key]]
        return None

    def contains(self, path: str, sha256: str) -> bool:
        """Tell whether this content is under ``path``.

        Raises:
            AlreadyExists: if other content is.
        """
        there = self.find(path)
        if there is not None and there.sha256 != sha256:
            raise AlreadyExists(
                f"{path} is there with other content, sha256 {there.sha256}: "
                "give the new image another name"
            )
        return there is not None

    @contextmanager
    def writing(self) -> Iterator[Callable[[IndexEntry, bytes], bool]]:
        """Be the only writer, and get what stores an image: false if it was there already.

        The lines are written together at the end, also when an error ends it: what was stored stays. What
        is called raises AlreadyExists if other content is under the path, and InvalidRequest if an image
        and its mask differ in size.
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
        """What is under ``paths``, each once, and the masks of the images among it.

        Raises:
            NotFound: if there is nothing under one of them.
        """
        found: dict[str, IndexEntry] = {}
        for path in paths:
            entry = self.find(path)
            if entry is None:
                raise NotFound(f"there is no {path} in the dataset")
            found[path] = entry
            mask = None if entry.layout_path.part == "ground_truth" else self.partner(entry.layout_path)
            if mask is not None:
                found[mask.path] = mask
        return list(found.values())

    def remove(self, paths: Iterable[str]) -> None:
        """Take out what is under ``paths``, and nothing else; each counts as gone before its file is.

        Raises:
            NotFound: if there is nothing under one of them; then all stay.
        """
        with self.exclusive():
            gone = set(paths)
            there = self.entries()
            if missing := gone - {entry.path for entry in there}:
                raise NotFound(f"there is no {min(missing)} in the dataset")
            left = [entry for entry in there if entry.path not in gone]
            atomic_write(self._path, new_index() + _lines(left))
            for path in gone:
                _discard(self._folder / path)

    def _check_partner(self, entry: IndexEntry, stored: Sequence[IndexEntry]) -> None:
        keys = entry.layout_path.partners
        partner = next((other for other in stored if other.layout_path.key in keys), None) or self.partner(
            entry.layout_path
        )
        if partner and (partner.width, partner.height) != (entry.width, entry.height):
            raise InvalidRequest(
                f"{entry.path} is {entry.width} x {entry.height} px, but {partner.path} is "
                f"{partner.width} x {partner.height}: an image and its mask must be of one size",
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
        """Add lines; when that fails, discard the files that have got none."""
        if not stored:
            return
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._offset)  # drops a line that a crash cut off
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
        """Be the only writer.

        Raises:
            NotFound: if the dataset is there no longer.
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
        """Once, remove what writers that died had begun: nobody else writes now."""
        if not self._swept:
            self._swept = True
            for part in PARTS:
                for staged in (self._folder / part).glob("*/.*"):
                    _discard(staged)

    def _refresh(self) -> None:
        """Read the lines that came since the last time."""
        with self._reading:
            if self._read_on():
                return
            self._forget()
            if self._read_on():
                return
        with self.exclusive():
            with self._reading:
                self._forget()
                if self._read_on():  # another one has repaired it meanwhile
                    return
                found = self._derived()
            atomic_write(self._path, new_index() + _lines(found))
            log.warning("made a lost or damaged index anew", index=str(self._path), images=len(found))
            with self._reading:
                self._forget()
                self._read_on()

    def _forget(self) -> None:
        self._head = b""
        self._offset = 0
        self._entries: dict[str, IndexEntry] = {}
        self._by_key: dict[Key, str] = {}
        self._safe_folders: set[Path] = set()  # would outlast a power cut

    def _read_on(self) -> bool:
        """Read new whole lines; false if there is no index or it makes no sense."""
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
            self._forget()
            self._head, self._offset = head, len(head)
        file.seek(self._offset)
        whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return True
        for line in whole.split(b"\n"):
            entry = _entry(line)
            if entry is None:
                return False
            self._entries[entry.path] = entry
            key = entry.layout_path.key
            self._by_key[key] = min(entry.path, self._by_key.get(key, entry.path))
        self._offset += len(whole) + 1
        return True

    def _derived(self) -> list[IndexEntry]:
        """What the files say, helped by the lines that still make sense."""
        with suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n"):
                if entry := _entry(line):
                    self._entries[entry.path] = entry
        found = []
        for part in PARTS:
            for file in sorted((self._folder / part).glob("*/[!.]*")):
                path = file.relative_to(self._folder).as_posix()
                with suppress(InvalidRequest):  # not an image of the layout: nobody has put it here by us
                    known = self._entries.get(path)
                    found.append(
                        known or make_entry(LayoutPath.parse(path), file.read_bytes(), self._limits)
                    )
        return found


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock on the file that is under this name now.

    Raises:
        NotFound: if its folder is gone.
    """
    while True:
        try:
            lock = file.open("ab")
        except FileNotFoundError as error:
            raise NotFound(f"the dataset in {file.parent.name} is there no longer") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the descriptor closes
            # Whoever waited while the dataset was removed holds the lock of what was there before.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    yield
                    return


def new_index() -> bytes:
    """What an index without images holds."""
    return b'{"index":"%s"}\n' % uuid4().hex.encode()


def make_entry(slot: LayoutPath, data: bytes, limits: ImageLimits) -> IndexEntry:
    """Decode an image or a mask to the end and return its entry.

    Raises:
        InvalidImage: if it is none.
    """
    if slot.part == "ground_truth":
        height, width = read_mask(data, limits).shape
    else:
        header = verify(data, limits)
        height, width = header.height, header.width
    return IndexEntry(
        path=str(slot),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        width=width,
        height=height,
    )


def _entry(line: bytes) -> IndexEntry | None:
    try:
        entry = IndexEntry.model_validate_json(line)
        LayoutPath.parse(
            entry.path
        )  # a path from the disk leaves the dataset no more than one from a caller
    except (ValidationError, InvalidRequest):
        return None
    return entry


def _lines(entries: Sequence[IndexEntry]) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)


def _discard(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
