# SPDX-License-Identifier: Apache-2.0
"""Import of a dataset from a folder on the server, within the configured import roots."""

import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from blemish_core.datasets.index import Index, make_entry
from blemish_core.datasets.layout import GOOD, LayoutPath
from blemish_core.datasets.records import Dataset, IndexEntry, Outcome, SkippedFile, UnpairedFiles
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from blemish_layouts.names import is_hidden_file, is_hidden_folder, printable, readable
from blemish_layouts.placement import Placement, part_of
from blemish_layouts.plan import Conversion, DatasetPlan, LeftOut, NoGoodClass, NotADataset, plan
from blemish_layouts.reading import read_below, walk

MAX_SHOWN = 1000
"""Number of skipped files that a result names."""
# The reasons for which one file is skipped, and the others are stored.
SKIPPABLE = (InvalidRequest, AlreadyExists, FailedPrecondition)

_MAX_DATASETS = 100
_MAX_FILES = 1_000_000
_BATCH_FILES = 32
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class ImportResult:
    """The result of an import."""

    dataset: Dataset
    stored: int
    unchanged: int
    """Number of images that the dataset already had."""
    replaced: int
    skipped_count: int
    expected_count: int
    """Number of skipped files because of which no image is missing."""
    skipped: tuple[SkippedFile, ...]
    """First thousand skipped files."""
    unpaired: UnpairedFiles
    layout: str = ""
    """Layout of the imported folder."""


@dataclass
class ImportCounts:
    """Counts of a running upload or import."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    skipped: list[SkippedFile] = field(default_factory=list)
    skipped_count: int = 0
    expected_count: int = 0

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1

    def skip(self, path: str, reason: Exception | str, *, expected: bool = False) -> None:
        self.skipped_count += 1
        self.expected_count += expected
        if len(self.skipped) < MAX_SHOWN:
            text = printable(str(reason)).removeprefix(f"{printable(path)}: ")
            self.skipped.append(SkippedFile(path, text, expected))

    def summary(self) -> str:
        """Return the first reasons for which files were skipped."""
        first = next((each for each in self.skipped if not each.expected), None)
        if first is None:
            return "the folder has no images"
        more = self.skipped_count - 1
        return f"{printable(first.path)}: {first.reason}" + (f" (and {more} more)" if more else "")

    def result(self, dataset: Dataset, unpaired: UnpairedFiles, layout: str = "") -> ImportResult:
        return ImportResult(
            dataset,
            self.outcomes[Outcome.STORED],
            self.outcomes[Outcome.UNCHANGED],
            self.outcomes[Outcome.REPLACED],
            self.skipped_count,
            self.expected_count,
            tuple(self.skipped),
            unpaired,
            layout,
        )


@dataclass(frozen=True)
class ImportFolder:
    """A folder on the server that can become a dataset."""

    folder: Path
    plan: DatasetPlan
    conversion: Conversion
    closed: tuple[str, ...]
    """Folders that are not entered: links, and those without permission."""

    @classmethod
    def below(cls, folder: Path, roots: Sequence[Path], conversion: Conversion) -> "ImportFolder":
        """Return ``folder`` if it may be read and has the layout of a dataset.

        Raises:
            InvalidRequest: if it is outside ``roots``, existing or not, or does not have the layout.
            NotFound: if it does not exist.
        """
        resolved = _resolved(folder, roots)
        try:
            children = sorted(child for child in resolved.iterdir() if not child.is_symlink())
        except FileNotFoundError as error:
            raise NotFound(f"the server has no folder {readable(folder)}") from error
        except NotADirectoryError as error:
            reason = f"{readable(folder)} is a file; give the dataset's folder"
            raise InvalidRequest(reason, field="path") from error
        except OSError as error:
            raise InvalidRequest(
                f"the server cannot read {readable(folder)} ({error.strerror}); check its permissions",
                field="path",
            ) from error
        files, closed = _walk(resolved)
        if len(files) > _MAX_FILES:
            raise InvalidRequest(
                f"{readable(folder)} has more than {_MAX_FILES} files; give the folder of one dataset",
                field="path",
            )
        try:
            arranged = plan(files, conversion, partial(_read_inside, resolved))
        except NotADataset as error:
            raise _not_a_dataset(folder, children, conversion, error) from error
        return cls(resolved, arranged, conversion, tuple(closed))

    def check_good(self, dataset: Dataset | None) -> None:
        """Reject a test set whose good images could count as defective.

        Args:
            dataset: the dataset that the folder is added to, None for a new one.

        Raises:
            InvalidRequest: if none of the test images of both is good.
        """
        try:
            self.plan.check_good(
                self.conversion, already=dataset is not None and GOOD in dataset.test_images
            )
        except NoGoodClass as error:
            raise InvalidRequest(str(error), field="good") from error

    def copy(
        self,
        index: Index,
        limits: ImageLimits,
        on_file: Callable[[int, int], None] | None,
        before_replacing: Callable[[Mapping[str, str]], None] | None = None,
    ) -> ImportCounts:
        """Store all images that are not in ``index``; call ``on_file`` with the files done and in total."""
        counts = ImportCounts()
        for path in self.closed:
            try:
                _inside(self.folder, path)
            except InvalidRequest as error:
                unused = self.plan.layout == "mvtec-ad" and part_of(path.partition("/")[0]) is None
                counts.skip(readable(path), error, expected=unused)
        replace = before_replacing is not None
        batch: list[tuple[IndexEntry, bytes]] = []
        todo: list[Placement | LeftOut] = [*self.plan.left_out, *self.plan.files]
        for done, each in enumerate(todo, start=1):
            try:
                if isinstance(each, LeftOut):
                    counts.skip(readable(each.source), each.reason, expected=each.expected)
                else:
                    data = self._read(each.source, limits.max_bytes)
                    digest = hashlib.sha256(data).hexdigest()
                    if index.contains(each.path, digest, original=each.original, replace=replace):
                        counts.add(Outcome.UNCHANGED)
                    else:
                        entry = make_entry(LayoutPath.parse(each.path), data, limits, each.original)
                        existing = index.find(each.path)
                        if before_replacing is not None and existing is not None:
                            before_replacing({existing.path: existing.sha256})
                        batch.append((entry, data))
            except SKIPPABLE as error:
                counts.skip(readable(each.source), error)
            # Decode without the lock and store in batches, so that other writers get their turn.
            if len(batch) == _BATCH_FILES or sum(len(data) for _, data in batch) > _BATCH_BYTES:
                _store(batch, index, counts, replace=replace)
                batch = []
            if on_file is not None:
                on_file(done, len(todo))
        _store(batch, index, counts, replace=replace)
        return counts

    def _read(self, path: str, max_bytes: int) -> bytes:
        """Read a file that ``_walk`` found.

        Raises:
            InvalidRequest: if the file must be skipped; the message is the reason.
        """
        target = _inside(self.folder, path)
        try:
            return read_below(self.folder, target.relative_to(self.folder), max_bytes)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise InvalidRequest(f"exceeds BLEMISH_MAX_IMAGE_BYTES: {error.strerror}") from error
            raise _unreadable(error) from error


def _inside(folder: Path, path: str) -> Path:
    """Return the file in ``folder`` that a path leads to.

    Raises:
        InvalidRequest: if it is outside of the folder, or is a folder.
    """
    try:
        target = (folder / path).resolve()  # reveals nothing about files outside of the folder
        if not target.is_relative_to(folder):
            raise InvalidRequest("is a link that leads out of the folder")
        if target.is_dir():
            raise InvalidRequest("is a link to a folder, or one that cannot be read")
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links before Python 3.13
        raise _unreadable(error) from error
    return target


def _read_inside(folder: Path, path: str, max_bytes: int) -> bytes:
    """Return a file that describes the dataset.

    Raises:
        OSError: if it is not a regular file in the folder, has more bytes, or cannot be read.
    """
    try:
        target = _inside(folder, path)
    except InvalidRequest as error:
        raise OSError(str(error)) from error
    return read_below(folder, target.relative_to(folder), max_bytes)


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the files that may be images, and the folders that are not entered.

    The walk ends after the largest number of files.
    """
    files: list[str] = []
    closed: list[str] = []
    for folder, folders, names in walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if not is_hidden_folder(name)]
        closed += [(here / name).relative_to(root).as_posix() for name in folders if not _open(here / name)]
        files += [(here / name).relative_to(root).as_posix() for name in names if not is_hidden_file(name)]
        if len(files) > _MAX_FILES:
            break
    return files, closed


def _unreadable(error: Exception) -> InvalidRequest:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidRequest(f"cannot be read: {reason}")


def _open(folder: Path) -> bool:
    return not folder.is_symlink() and os.access(folder, os.R_OK | os.X_OK)


def _store(
    batch: Sequence[tuple[IndexEntry, bytes]], index: Index, counts: ImportCounts, *, replace: bool
) -> None:
    with index.writing(replace=replace) as store:
        for entry, data in batch:
            try:
                counts.add(store(entry, data))
            except SKIPPABLE as error:
                counts.skip(entry.original or entry.path, error)


def _resolved(folder: Path, roots: Sequence[Path]) -> Path:
    if not roots:
        raise InvalidRequest(
            "the server imports no folders; set BLEMISH_IMPORT_ROOTS to the folders that it may read",
            field="path",
        )
    try:
        resolved = folder.resolve() if folder.is_absolute() else None
    except (OSError, RuntimeError, ValueError):  # circular links, NUL
        resolved = None
    if resolved is None or not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise InvalidRequest(
            f"{readable(folder)} is not an absolute path below one of the folders in BLEMISH_IMPORT_ROOTS; "
            f"use one of {', '.join(map(readable, roots))}",
            field="path",
        )
    return resolved


def _not_a_dataset(
    folder: Path, children: Sequence[Path], conversion: Conversion, reason: NotADataset
) -> InvalidRequest:
    datasets = [readable(child.name) for child in children if (child / "train" / "good").is_dir()]
    if datasets and not conversion.layout:
        named = ", ".join(datasets[:_MAX_DATASETS])
        return InvalidRequest(
            f"{readable(folder)} holds several datasets; choose one of: {named}", field="path"
        )
    return InvalidRequest(f"{readable(folder)} is not a dataset; {reason}", field="path")
