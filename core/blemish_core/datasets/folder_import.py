# SPDX-License-Identifier: Apache-2.0
"""A folder of the server's file system as a source of images: what may be read, and what is in it."""

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
    """What an import did."""

    dataset: Dataset
    stored: int
    unchanged: int
    """Were there before with the same content."""
    skipped_count: int
    skipped: tuple[tuple[str, str], ...]
    """The first hundred files left out: path below the folder, and reason."""


@dataclass
class ImportCounts:
    """An import under way."""

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
    """A folder in MVTec AD's layout."""

    folder: Path

    @classmethod
    def below(cls, folder: Path, roots: Sequence[Path]) -> "ImportFolder":
        """Check that ``folder`` may be read and looks like a dataset.

        Raises:
            InvalidRequest: if it is outside ``roots``, whether it exists or not, or not in the layout.
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
            reason = f"{readable(folder)} is a file: name the dataset's folder"
            raise InvalidRequest(reason, field="path") from error
        except OSError as error:
            raise InvalidRequest(
                f"the server cannot read {readable(folder)}: {error.strerror}", field="path"
            ) from error
        return cls(resolved)

    def copy(
        self, index: Index, limits: ImageLimits, on_file: Callable[[int, int], None] | None
    ) -> ImportCounts:
        """Store all images that are not in ``index``; tell ``on_file`` how many files are done of all.

        Raises:
            AlreadyExists: if the dataset has other content under one of the paths.
        """
        tally = ImportCounts()
        paths = [path for part in PARTS for path in sorted(self._walk(part))]
        batch: list[tuple[IndexEntry, bytes]] = []
        for done, path in enumerate(paths, start=1):
            try:
                slot, data = self._read(path, limits.max_bytes)
                if index.contains(path, hashlib.sha256(data).hexdigest()):
                    tally.unchanged += 1
                else:
                    batch.append((make_entry(slot, data, limits), data))
            except InvalidRequest as error:
                tally.skip(path, error)
            # Decoding is done unlocked, the cheap rest together: others may write in between.
            if len(batch) == _BATCH_FILES or sum(len(data) for _, data in batch) > _BATCH_BYTES:
                _store(batch, index, tally)
                batch = []
            if on_file is not None:
                on_file(done, len(paths))
        _store(batch, index, tally)
        return tally

    def _read(self, path: str, max_bytes: int) -> tuple[LayoutPath, bytes]:
        """Read a file that ``_walk`` found.

        Raises:
            InvalidRequest: if it is to be left out; the message says why.
        """
        file = self.folder / path
        try:
            target = file.resolve()  # says nothing of what exists outside
            if not target.is_relative_to(self.folder):
                raise InvalidRequest("is a link that leads out of the folder")
            if target.is_dir():
                raise InvalidRequest("is a link to a folder, or one that cannot be read")
            slot = LayoutPath.parse(path)
            status = target.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InvalidRequest("is not a regular file")
            if status.st_size > max_bytes:
                raise InvalidRequest(
                    f"has {status.st_size} bytes, but BLEMISH_MAX_IMAGE_BYTES allows {max_bytes}"
                )
            with target.open("rb") as opened:
                return slot, opened.read(max_bytes + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.13
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise InvalidRequest(f"cannot be read: {reason}") from error

    def _walk(self, part: str) -> Iterator[str]:
        """Yield all files that are not hidden, and the folders not entered, so that they are named."""
        for folder, folders, files in os.walk(self.folder / part):
            here = Path(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            closed = [name for name in folders if not _open(here / name)]
            for name in (*files, *closed):
                if not name.startswith("."):
                    yield (here / name).relative_to(self.folder).as_posix()


def _open(folder: Path) -> bool:
    return not folder.is_symlink() and os.access(folder, os.R_OK | os.X_OK)


def _store(batch: Sequence[tuple[IndexEntry, bytes]], index: Index, tally: ImportCounts) -> None:
    with index.writing() as store:
        for entry, data in batch:
            try:
                if store(entry, data):
                    tally.stored += 1
                else:
                    tally.unchanged += 1
            except InvalidRequest as error:
                tally.skip(entry.path, error)


def _resolved(folder: Path, roots: Sequence[Path]) -> Path:
    if not roots:
        raise InvalidRequest(
            "the server imports no folders: name those that it may read in BLEMISH_IMPORT_ROOTS",
            field="path",
        )
    try:
        resolved = folder.resolve() if folder.is_absolute() else None
    except (OSError, RuntimeError, ValueError):  # links in a circle, NUL
        resolved = None
    if resolved is None or not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise InvalidRequest(
            f"{readable(folder)} is not an absolute path below one of the folders in BLEMISH_IMPORT_ROOTS: "
            f"{', '.join(map(readable, roots))}",
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
        f"{readable(folder)} is not a dataset: it needs train/good/ or test/CLASS/ with images in it",
        field="path",
    )


def readable(path: Path | str) -> str:
    """A path as a person can read it and protobuf can carry it."""
    return os.fsencode(path).decode(errors="replace")
