# SPDX-License-Identifier: Apache-2.0
"""Import of a dataset from a folder on the server, within the configured import roots."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blemish_core.datasets.index import Index, make_entry
from blemish_core.datasets.layout import PARTS, LayoutPath
from blemish_core.datasets.records import Dataset, IndexEntry
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import InvalidRequest, NotFound

_SHOWN = 100
_BATCH_FILES = 32
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class ImportResult:
    """The result of an import."""

    dataset: Dataset
    stored: int
    unchanged: int
    """Number of images that the dataset already had."""
    skipped_count: int
    skipped: tuple[tuple[str, str], ...]
    """First hundred skipped files: path below the folder, and reason."""


@dataclass
class ImportCounts:
    """Counts of a running import."""

    stored: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, path: str, reason: InvalidRequest) -> None:
        self.skipped.append((readable(path), str(reason)))

    def result(self, dataset: Dataset) -> ImportResult:
        return ImportResult(
            dataset, self.stored, self.unchanged, len(self.skipped), tuple(self.skipped[:_SHOWN])
        )


@dataclass(frozen=True)
class ImportFolder:
    """A folder in MVTec AD's layout on the server."""

    folder: Path

    @classmethod
    def below(cls, folder: Path, roots: Sequence[Path]) -> "ImportFolder":
        """Return ``folder`` if it may be read and has the layout of a dataset.

        Raises:
            InvalidRequest: if it is outside ``roots``, existing or not, or does not have the layout.
            NotFound: if it does not exist.
        """
        resolved = _resolved(folder, roots)
        try:
            children = sorted(child for child in resolved.iterdir() if not child.is_symlink())
            if not any((resolved / part).is_dir() for part in ("train/good", "test")):
                raise _not_a_dataset(folder, children)
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
        return cls(resolved)

    def copy(
        self, index: Index, limits: ImageLimits, on_file: Callable[[int, int], None] | None
    ) -> ImportCounts:
        """Store all images that are not in ``index``; call ``on_file`` with the files done and in total.

        Raises:
            AlreadyExists: if the dataset has other content at one of the paths.
        """
        counts = ImportCounts()
        paths = [path for part in PARTS for path in sorted(self._walk(part))]
        batch: list[tuple[IndexEntry, bytes]] = []
        for done, path in enumerate(paths, start=1):
            try:
                location, data = self._read(path, limits.max_bytes)
                if index.contains(path, hashlib.sha256(data).hexdigest()):
                    counts.unchanged += 1
                else:
                    batch.append((make_entry(location, data, limits), data))
            except InvalidRequest as error:
                counts.skip(path, error)
            # Decode without the lock and store in batches, so that other writers get their turn.
            if len(batch) == _BATCH_FILES or sum(len(data) for _, data in batch) > _BATCH_BYTES:
                _store(batch, index, counts)
                batch = []
            if on_file is not None:
                on_file(done, len(paths))
        _store(batch, index, counts)
        return counts

    def _read(self, path: str, max_bytes: int) -> tuple[LayoutPath, bytes]:
        """Read a file that ``_walk`` found.

        Raises:
            InvalidRequest: if the file must be skipped; the message is the reason.
        """
        file = self.folder / path
        try:
            target = file.resolve()  # reveals nothing about files outside of the folder
            if not target.is_relative_to(self.folder):
                raise InvalidRequest("is a link that leads out of the folder")
            if target.is_dir():
                raise InvalidRequest("is a link to a folder, or one that cannot be read")
            location = LayoutPath.parse(path)
            status = target.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InvalidRequest("is not a regular file")
            if status.st_size > max_bytes:
                raise InvalidRequest(
                    f"exceeds the {max_bytes} bytes of BLEMISH_MAX_IMAGE_BYTES, with {status.st_size}"
                )
            with target.open("rb") as opened:
                return location, opened.read(max_bytes + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: circular links before Python 3.13
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise InvalidRequest(f"cannot be read: {reason}") from error

    def _walk(self, part: str) -> Iterator[str]:
        """Yield all files that are not hidden, and the folders that are not entered, to report them."""
        for folder, folders, files in os.walk(self.folder / part):
            here = Path(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            closed = [name for name in folders if not _open(here / name)]
            for name in (*files, *closed):
                if not name.startswith("."):
                    yield (here / name).relative_to(self.folder).as_posix()


def _open(folder: Path) -> bool:
    return not folder.is_symlink() and os.access(folder, os.R_OK | os.X_OK)


def _store(batch: Sequence[tuple[IndexEntry, bytes]], index: Index, counts: ImportCounts) -> None:
    with index.writing() as store:
        for entry, data in batch:
            try:
                if store(entry, data):
                    counts.stored += 1
                else:
                    counts.unchanged += 1
            except InvalidRequest as error:
                counts.skip(entry.path, error)


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


def _not_a_dataset(folder: Path, children: Sequence[Path]) -> InvalidRequest:
    datasets = [readable(child.name) for child in children if (child / "train" / "good").is_dir()]
    if datasets:
        return InvalidRequest(
            f"{readable(folder)} holds several datasets; choose one of: {', '.join(datasets[:_SHOWN])}",
            field="path",
        )
    return InvalidRequest(
        f"{readable(folder)} is not a dataset; it needs images in train/good/ or test/CLASS/",
        field="path",
    )


def readable(path: Path | str) -> str:
    """Return a path as valid UTF-8, which protobuf requires."""
    return os.fsencode(path).decode(errors="replace")
