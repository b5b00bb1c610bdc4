# SPDX-License-Identifier: Apache-2.0
"""The index of a dataset: one line of JSON per image, appended once the image's file is on disk.

An image exists from the moment its line is complete, so a crash leaves it complete or absent. Writers in
all threads and processes exclude each other with ``flock`` on a file of the dataset; readers need no lock.
The next writer overwrites a truncated line. A lost or damaged index is rebuilt from the files, together
with the lines that are still readable.

The last line of a path counts. A replacement is written to a hidden file first. Its line makes it valid,
and only then it takes the image's place. Readers find it at either name, and the next writer completes a
rename that a crash prevented.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from threading import Lock, RLock
from typing import BinaryIO
from uuid import uuid4

import structlog
from pydantic import ValidationError

from blemish_core.datasets.layout import PARTS, LayoutPath, Pair
from blemish_core.datasets.moving import MovePlan, plan_moves
from blemish_core.datasets.records import DatasetRecord, EntryDepth, IndexEntry, Outcome, UnpairedFiles
from blemish_core.imaging.decode import ImageLimits, read_mask, verify
from blemish_core.imaging.white_level import WhiteLevel, bits_of, highest_of
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, NotFound
from blemish_core.platform.files import atomic_write, fsync
from blemish_layouts.reading import open_regular, read_below, read_regular

INDEX = "index.jsonl"
RECORD = "dataset.json"
LOCK = ".lock"
_MAX_STORED_BYTES = 1 << 30
"""Longest file that is read. Files were accepted with the limits of an earlier time."""

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

    def find_named(self, name: str) -> IndexEntry | None:
        """Return the entry with a path or, if there is none, with an original path."""
        if (entry := self.find(name)) is not None:
            return entry
        with self._reading:
            return self._entries.get(self._by_original.get(name, ""))

    def masks_of(self, image: LayoutPath) -> list[IndexEntry]:
        """Return the masks of an image, by path."""
        if image.part != "test":
            return []
        self._refresh()
        with self._reading:
            return [
                self._entries[path]
                for pair in image.pairs
                for path in sorted(self._masks.get(pair, ()))
                if self._pair_of_mask(path) == pair
            ]

    def unpaired(self) -> UnpairedFiles:
        """Return the masks without an image, and the defective test images without a mask."""
        self._refresh()
        with self._reading:
            masked, masks = set(), []
            for path, entry in self._entries.items():
                if entry.layout_path.part == "ground_truth":
                    pair = self._pair_of_mask(path)
                    if pair is None:
                        masks.append(entry.shown)
                    else:
                        masked.add(pair)
            images = [
                self._entries[path].shown
                for pair, paths in self._images.items()
                if pair not in masked
                for path in paths
            ]
        return UnpairedFiles(tuple(sorted(masks)), tuple(sorted(images)))

    def contains(self, path: str, sha256: str, *, original: str = "", replace: bool = False) -> bool:
        """Return whether ``path`` has this content.

        Args:
            path: path in the layout.
            sha256: SHA-256 of the content, in hex.
            original: path of the file that was uploaded, if it differs from ``path``.
            replace: return False if ``path`` has other content that may be replaced.

        Raises:
            AlreadyExists: if ``path`` has other content that may not be replaced, or the same file is
                stored under another path.
        """
        existing = self.find(path)
        if existing is None:
            same = self.find_named(original or path)
            if same is not None and same.path != path and same.sha256 == sha256:
                raise AlreadyExists(
                    f"{same.shown} is stored as {same.path} already, not as {path}; give the same options "
                    "as before, or remove it first"
                )
            return False
        if existing.sha256 == sha256:
            return True
        if existing.original != original:
            raise AlreadyExists(
                f"{path} already holds another file, {existing.shown}; give the new image another name"
            )
        if not replace:
            raise AlreadyExists(
                f"{existing.shown} already exists with other content, sha256 {existing.sha256}; "
                "replace it (--replace), or give the new image another name"
            )
        return False

    @contextmanager
    def writing(self, *, replace: bool = False) -> Iterator[Callable[[IndexEntry, bytes], Outcome]]:
        """Hold the write lock and yield a function that stores an image and returns the effect.

        The lines are appended together at the end, also after an error. The function raises AlreadyExists
        if the path has other content, and InvalidRequest if an image and its mask differ in size.

        Args:
            replace: replace other content of a path. Masks that do not fit the new image are removed.
        """
        stored: list[IndexEntry] = []

        def store(entry: IndexEntry, data: bytes) -> Outcome:
            if any(entry.path == other.path for other in stored):
                flush()
            if self.contains(entry.path, entry.sha256, original=entry.original, replace=replace):
                return Outcome.UNCHANGED
            check_white_level(entry, level)
            replaced = self.find(entry.path) is not None
            if replaced and (unfit := self._unfit_masks(entry, stored)):
                flush()
                self.remove(unfit)
            self._check_pairs(entry, stored)
            self._store(entry, data, replaced=replaced)
            stored.append(entry)
            return Outcome.REPLACED if replaced else Outcome.STORED

        def flush() -> None:
            self._append(stored)
            stored.clear()

        with self.exclusive():
            self._refresh()
            self._sweep()
            level = self._white_level()
            try:
                yield store
            finally:
                self._append(stored)

    def set_white_level(self, level: int | None) -> None:
        """Set the white level of the dataset, or remove it.

        Raises:
            InvalidRequest: if a stored image has higher samples.
        """
        with self.exclusive():
            for entry in self.entries():
                check_white_level(entry, level)
            file = self._folder / RECORD
            record = DatasetRecord.model_validate_json(file.read_bytes())
            atomic_write(file, record_bytes(record.model_copy(update={"white_level": level})))

    def _white_level(self) -> int | None:
        """Return the level that a person gave."""
        try:
            return DatasetRecord.model_validate_json((self._folder / RECORD).read_bytes()).white_level
        except (OSError, ValidationError):
            return None  # a damaged record is reported where it is needed

    def select(self, paths: Iterable[str]) -> list[IndexEntry]:
        """Return the entries at ``paths`` and the masks of the images among them, without duplicates.

        Args:
            paths: paths in the layout, or original ones.

        Raises:
            InvalidRequest: if a path is neither known nor in the layout.
            NotFound: if a path has no entry.
        """
        found: dict[str, IndexEntry] = {}
        for path in paths:
            entry = self.find_named(path)
            if entry is None:
                LayoutPath.parse(path)
                raise NotFound(f"the dataset has no {path}")
            found[entry.path] = entry
            found |= {mask.path: mask for mask in self.masks_of(entry.layout_path)}
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
                for pending in (self._folder / path).parent.glob(f".{Path(path).name}.*"):
                    _discard(pending)
            self._refresh()

    def plan_moves(self, paths: Sequence[str], folder: str) -> MovePlan:
        """Return the moves of images to a folder; see ``moving.plan_moves``.

        Args:
            paths: paths in the layout, or original ones.
            folder: train/good or test/CLASS.

        Raises:
            InvalidRequest: see ``moving.plan_moves``, or if a path is neither known nor in the layout.
            NotFound: if a path has no entry.
            AlreadyExists: see ``moving.plan_moves``.
        """
        images: dict[str, tuple[IndexEntry, list[IndexEntry]]] = {}
        for path in paths:
            entry = self.find_named(path)
            if entry is None:
                LayoutPath.parse(path)
                raise NotFound(f"the dataset has no {path}")
            images.setdefault(entry.path, (entry, self.masks_of(entry.layout_path)))

        def masks_at(image: LayoutPath) -> list[IndexEntry]:
            with self._reading:
                paths = [path for pair in image.pairs for path in sorted(self._masks.get(pair, ()))]
                return [self._entries[path] for path in paths if self._pair_of_mask(path) is None]

        return plan_moves(list(images.values()), folder, self.find, masks_at)

    def move(self, paths: Sequence[str], folder: str) -> MovePlan:
        """Move images to a folder, all or none, and return what was moved.

        The files are linked at their new paths first. Then the new index counts, and the old files are
        deleted.

        Raises:
            InvalidRequest: see ``plan_moves``.
            NotFound: see ``plan_moves``.
            AlreadyExists: see ``plan_moves``.
        """
        with self.exclusive():
            self._refresh()
            self._sweep()
            plan = self.plan_moves(paths, folder)
            gone = {move.entry.path for move in plan.moved} | {mask.path for mask in plan.deleted_masks}
            linked: list[Path] = []
            try:
                for move in plan.moved:
                    target = self._folder / move.target.path
                    linked.append(target)
                    self._link(self._folder / move.entry.path, target)
                for parent in {file.parent for file in linked}:
                    fsync(parent)
                kept = [entry for entry in self.entries() if entry.path not in gone]
                atomic_write(self._path, new_index() + _lines(kept + [move.target for move in plan.moved]))
            except OSError:
                for file in linked:
                    _discard(file)
                raise
            for path in gone:
                _discard(self._folder / path)
            self._refresh()
            return plan

    def _link(self, source: Path, target: Path) -> None:
        """Link a file at its new path, where a killed process may have left one."""
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True)
            fsync(target.parent.parent)
            fsync(self._folder)
        target.unlink(missing_ok=True)
        target.hardlink_to(source)

    def read(self, entry_path: str, sha256: str) -> bytes:
        """Return the content of a file with this digest.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if the file has other content.
        """
        file = self._folder / entry_path
        pending = _pending(file, sha256)
        # A replacement may be renamed between two of these.
        for candidate in (file, pending):
            with suppress(FileNotFoundError):
                data = read_regular(candidate, _MAX_STORED_BYTES)
                if hashlib.sha256(data).hexdigest() == sha256:
                    return data
        data = read_regular(file, _MAX_STORED_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{file} has other content")
        return data

    def _check_pairs(self, entry: IndexEntry, stored: Sequence[IndexEntry]) -> None:
        """Reject an image or mask that differs in size from its masks or image."""
        for other in self._partners(entry, stored):
            if not _same_size(other, entry):
                raise InvalidRequest(
                    f"{entry.path} is {entry.width} x {entry.height} px, but {other.path} is "
                    f"{other.width} x {other.height}; an image and its mask must have the same size",
                    field="image",
                )

    def _unfit_masks(self, entry: IndexEntry, stored: Sequence[IndexEntry]) -> list[str]:
        """Return the masks of an image that differ from it in size."""
        if entry.layout_path.part != "test":
            return []
        return [mask.path for mask in self._partners(entry, stored) if not _same_size(mask, entry)]

    def _partners(self, entry: IndexEntry, stored: Sequence[IndexEntry]) -> list[IndexEntry]:
        """Return the masks of an image, or the images of a mask, among all entries and ``stored``."""
        location = entry.layout_path
        with self._reading:
            known = self._images if location.part == "ground_truth" else self._masks
            paths = [path for pair in location.pairs for path in known.get(pair, ())]
            found = {path: self._entries[path] for path in paths}
        for other in stored:
            place = other.layout_path
            if {place.part, location.part} == {"test", "ground_truth"} and not (
                set(place.pairs).isdisjoint(location.pairs)
            ):
                found[other.path] = other
        if location.part == "ground_truth":
            # The image of the usual pair, which is the first one with an image.
            for pair in location.pairs:
                if images := [each for each in found.values() if pair in each.layout_path.pairs]:
                    return images
            return []
        return list(found.values())

    def _pair_of_mask(self, path: str) -> Pair | None:
        """Return the pair of the image that a mask belongs to. The caller holds ``_reading``."""
        pairs = self._entries[path].layout_path.pairs
        return next((pair for pair in pairs if self._images.get(pair)), None)

    def _store(self, entry: IndexEntry, data: bytes, *, replaced: bool) -> None:
        file = self._folder / entry.path
        target = _pending(file, entry.sha256) if replaced else file
        try:
            if file.parent not in self._safe_folders:
                file.parent.mkdir(parents=True, exist_ok=True)
                fsync(file.parent.parent)
                fsync(self._folder)
                self._safe_folders.add(file.parent)
            atomic_write(target, data)
        except OSError:
            _discard(target)
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
                existing = self.find(entry.path)
                if existing is None:
                    _discard(self._folder / entry.path)
                elif existing.sha256 != entry.sha256:
                    _discard(_pending(self._folder / entry.path, entry.sha256))
            raise
        self._refresh()
        for entry in stored:
            self._complete(_pending(self._folder / entry.path, entry.sha256), entry)

    def _complete(self, pending: Path, entry: IndexEntry) -> None:
        """Let a replacement take the image's place, if there is one."""
        if pending.exists():
            file = self._folder / entry.path
            pending.replace(file)
            fsync(file.parent)

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
        """Complete replacements and delete temporary files of killed writers, once.

        The caller holds the write lock.
        """
        if not self._swept:
            self._swept = True
            for part in PARTS:
                for staged in (self._folder / part).glob("*/.*"):
                    name, _, sha256 = staged.name[1:].rpartition(".")
                    entry = self.find(staged.with_name(name or "-").relative_to(self._folder).as_posix())
                    if entry is not None and entry.sha256 == sha256:
                        self._complete(staged, entry)
                    else:
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
        self._by_original: dict[str, str] = {}
        self._images: dict[Pair, set[str]] = {}  # paths of defective test images
        self._masks: dict[Pair, set[str]] = {}  # paths of masks, by each pair that they may belong to
        self._safe_folders: set[Path] = set()  # directories known to be on disk

    def _read_new_lines(self) -> bool:
        """Read new complete lines; return False if the index is missing or damaged."""
        try:
            with open_regular(self._path) as file:
                return self._read_from(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EINVAL:  # not a regular file, which the rebuilt index replaces
                raise
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
            if entry.original:
                self._by_original[entry.original] = entry.path
            location = entry.layout_path
            paired = self._masks if location.part == "ground_truth" else self._images
            for pair in location.pairs:
                paired.setdefault(pair, set()).add(entry.path)
        self._offset += len(complete) + 1
        return True

    def _rebuilt(self) -> list[IndexEntry]:
        """Return the entries of all files, taken from the readable lines where they exist."""
        with suppress(FileNotFoundError):
            if self._path.is_file():
                for line in self._path.read_bytes().split(b"\n"):
                    if entry := _entry(line):
                        self._entries[entry.path] = entry
        found = []
        for part in PARTS:
            for file in sorted((self._folder / part).glob("*/[!.]*")):
                path = file.relative_to(self._folder).as_posix()
                # Neither links nor files that are not images in the layout belong to the dataset.
                with suppress(InvalidRequest, OSError):
                    known = self._entries.get(path)
                    if known is None:
                        data = read_below(self._folder, PurePath(path), self._limits.max_bytes)
                        known = make_entry(LayoutPath.parse(path), data, self._limits)
                    found.append(known)
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


def record_bytes(record: DatasetRecord) -> bytes:
    """Return the content of a record's file, without what is not set, which older versions would reject."""
    return record.model_dump_json(indent=2, exclude_none=True).encode()


def check_white_level(entry: IndexEntry, level: int | None) -> None:
    """Check that the samples of an image fit a white level that a person gave.

    Raises:
        InvalidRequest: if a sample has more bits.
    """
    depth = entry.depth
    if level is None or depth is None or depth.by_format or depth.highest <= highest_of(level):
        return
    raise InvalidRequest(
        f"{entry.path} has samples up to {depth.highest}, but the white level {level} has {bits_of(level)} "
        "bits; give the highest value that the camera sends, or leave the image out",
        field="white_level",
    )


def new_index() -> bytes:
    """Return the content of an empty index."""
    return b'{"index":"%s"}\n' % uuid4().hex.encode()


def make_entry(path: LayoutPath, data: bytes, limits: ImageLimits, original: str = "") -> IndexEntry:
    """Decode an image or a mask completely and return its entry.

    Raises:
        InvalidImage: if the data is not an image within the limits.
    """
    depth = None
    if path.part == "ground_truth":
        height, width = read_mask(data, limits).shape
    else:
        header = verify(data, limits, WhiteLevel())
        height, width = header.height, header.width
        if header.depth is not None:
            depth = EntryDepth(
                highest=header.highest, white=header.stated_white, by_format=header.white_by_format
            )
    return IndexEntry(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        width=width,
        height=height,
        original=original,
        depth=depth,
    )


def _entry(line: bytes) -> IndexEntry | None:
    try:
        entry = IndexEntry.model_validate_json(line)
        LayoutPath.parse(entry.path)  # a path from a damaged index must not leave the dataset either
    except (ValidationError, InvalidRequest):
        return None
    return entry


def _lines(entries: Sequence[IndexEntry]) -> bytes:
    return b"".join(entry.model_dump_json(exclude_defaults=True).encode() + b"\n" for entry in entries)


def _pending(file: Path, sha256: str) -> Path:
    """Return the path of a replacement of ``file`` before its rename."""
    return file.with_name(f".{file.name}.{sha256}")


def _same_size(one: IndexEntry, other: IndexEntry) -> bool:
    return (one.width, one.height) == (other.width, other.height)


def _discard(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
