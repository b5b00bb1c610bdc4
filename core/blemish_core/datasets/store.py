# SPDX-License-Identifier: Apache-2.0
"""Datasets on disk: ``root/<id>/`` contains ``dataset.json``, the index, and images in the layout."""

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from uuid import uuid4

from pydantic import ValidationError

from blemish_core.datasets.folder_import import ImportFolder, ImportResult
from blemish_core.datasets.incoming import BeforeReplacing, IncomingFile
from blemish_core.datasets.index import INDEX, LOCK, RECORD, Index, make_entry, new_index, record_bytes
from blemish_core.datasets.layout import LayoutPath
from blemish_core.datasets.moving import MovePlan
from blemish_core.datasets.records import (
    Dataset,
    DatasetImage,
    DatasetRecord,
    IndexEntry,
    Outcome,
    Split,
    UnpairedFiles,
    stored_depths,
    summary,
)
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.white_level import WhiteLevel, validate_level, white_level_of
from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidImage, InvalidRequest, NotFound
from blemish_core.platform.files import disk_full_errors, fsync, publish_directory, staged_directory
from blemish_core.platform.names import ID, dataset_name, validate_id
from blemish_layouts.plan import AS_NAMED, Conversion
from blemish_layouts.reading import read_regular

_MAX_RECORD_BYTES = 1 << 20
_DELETED = ".deleted-"

_Datasets = list[Dataset]  # the method ``list`` hides the type
_Images = list[DatasetImage]
_Entries = list[IndexEntry]


class DatasetStore:
    """The datasets below ``root``. Any number of threads and processes may read and write at once."""

    def __init__(self, root: Path, limits: ImageLimits) -> None:
        self._root = root
        self._limits = limits
        self._indexes: dict[str, Index] = {}
        self._lock = Lock()

    def create(self, dataset_id: str, category: str, white_level: int | None = None) -> Dataset:
        """Create an empty dataset.

        Raises:
            InvalidRequest: if the id, the category or the white level is malformed.
            AlreadyExists: if the id is taken.
            DiskFull: if the disk is full.
        """
        folder = self._folder(dataset_id)
        record = DatasetRecord(
            id=dataset_id,
            category=validate_id(category or dataset_id, "category"),
            create_time=datetime.now(UTC),
            white_level=None if white_level is None else validate_level(white_level),
        )
        with disk_full_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            with staged_directory(self._root / f".{dataset_id}.{uuid4().hex}") as staging:
                (staging / LOCK).touch()
                (staging / INDEX).write_bytes(new_index())
                (staging / RECORD).write_bytes(record_bytes(record))
                if not publish_directory(staging, folder):
                    raise AlreadyExists(
                        f"{dataset_name(dataset_id)} already exists; upload to it or choose another id"
                    )
        return self.get(dataset_id)

    def set_white_level(self, dataset_id: str, level: int | None) -> Dataset:
        """Set the white level of a dataset; None takes each image at its word.

        Models that were trained before keep theirs.

        Raises:
            InvalidRequest: if the level is not valid, or an image has higher samples.
            NotFound: if the dataset does not exist.
        """
        self._record(dataset_id)
        with disk_full_errors(self._root):
            self._index(dataset_id).set_white_level(None if level is None else validate_level(level))
        return self.get(dataset_id)

    def require(self, dataset_id: str) -> None:
        """Raise NotFound unless the dataset exists, damaged or not."""
        if not (self._folder(dataset_id) / RECORD).exists():
            raise _no_such(dataset_id)

    def get(self, dataset_id: str) -> Dataset:
        """Return a dataset with the numbers of its images.

        Raises:
            NotFound: if the dataset does not exist.
            Corrupt: if ``dataset.json`` is damaged.
        """
        record = self._record(dataset_id)
        return summary(record, self._index(dataset_id).entries())

    def images(self, dataset_id: str, split: Split | None = None) -> _Images:
        """Return the images without masks, sorted by path.

        Raises:
            NotFound: if the dataset does not exist.
        """
        record = self._record(dataset_id)
        images = (_image(record, entry) for entry in self._index(dataset_id).entries())
        return [image for image in images if image and split in (None, image.split)]

    def entries(self, dataset_id: str, prefix: str = "", after: str = "") -> _Entries:
        """Return images and masks by path: those that start with ``prefix`` and sort after ``after``.

        Raises:
            NotFound: if the dataset does not exist.
        """
        self._record(dataset_id)
        entries = self._index(dataset_id).entries()
        return [entry for entry in entries if entry.path.startswith(prefix) and entry.path > after]

    def select(self, dataset_id: str, paths: Sequence[str]) -> _Entries:
        """Return the entries at ``paths`` and the masks of the images among them, without duplicates.

        Args:
            dataset_id: id of the dataset.
            paths: paths in the layout, or original paths of uploaded files.

        Raises:
            InvalidRequest: if a path is neither known nor in the layout.
            NotFound: if the dataset or one of the paths does not exist.
        """
        self._record(dataset_id)
        return self._index(dataset_id).select(paths)

    def remove(self, dataset_id: str, paths: Sequence[str]) -> None:
        """Remove images and masks from a dataset.

        Raises:
            InvalidRequest: if a path is not in the layout.
            NotFound: if the dataset or one of the paths does not exist; nothing is removed then.
            DiskFull: if the disk has no space for the new index.
        """
        self._record(dataset_id)
        with disk_full_errors(self._root):
            self._index(dataset_id).remove(str(LayoutPath.parse(path)) for path in paths)

    def plan_moves(self, dataset_id: str, paths: Sequence[str], folder: str) -> MovePlan:
        """Return what ``move`` would move, and raise what it would raise."""
        self._record(dataset_id)
        return self._index(dataset_id).plan_moves(paths, folder)

    def move(self, dataset_id: str, paths: Sequence[str], folder: str) -> MovePlan:
        """Move images to another class, with their masks; all of them or none.

        Args:
            dataset_id: id of the dataset.
            paths: paths in the layout, or original ones.
            folder: train/good or test/CLASS.

        Raises:
            InvalidRequest: if a path or the folder is malformed, or an image and a mask differ in size.
            NotFound: if the dataset or one of the images does not exist.
            AlreadyExists: if the class has the same image under both names, or another mask for it.
            DiskFull: if the disk has no space for the new index.
        """
        self._record(dataset_id)
        with disk_full_errors(self._root):
            return self._index(dataset_id).move(paths, folder)

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset, damaged or not: first by a rename, then file by file.

        Raises:
            NotFound: if the dataset does not exist.
        """
        self.require(dataset_id)
        folder = self._folder(dataset_id)
        with self._index(dataset_id).exclusive():
            folder.rename(self._root / f".{dataset_id}{_DELETED}{uuid4().hex}")
            fsync(self._root)
        # Include folders that a killed process left here.
        for folder in self._root.glob(f".*{_DELETED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def read(self, image: DatasetImage) -> bytes:
        """Return the encoded bytes of an image.

        Raises:
            Corrupt: if the file is missing or was changed.
        """
        return self._read(image.dataset, image.path, image.sha256)

    def read_path(self, dataset_id: str, path: str, sha256: str = "") -> bytes:
        """Return the encoded bytes of the image or mask at ``path``.

        Args:
            dataset_id: id of the dataset.
            path: path in the layout.
            sha256: SHA-256 that the bytes must have, in hex; empty for any.

        Raises:
            InvalidRequest: if ``path`` is not in the layout.
            NotFound: if the dataset or the path does not exist, or has other content.
            Corrupt: if the file is missing or was changed.
        """
        location = LayoutPath.parse(path)
        self._record(dataset_id)
        entry = self._index(dataset_id).find(str(location))
        if entry is None:
            raise NotFound(f"{dataset_name(dataset_id)} has no {path}")
        if sha256 not in ("", entry.sha256):
            raise NotFound(f"{path} in {dataset_name(dataset_id)} was replaced; index the dataset again")
        return self._read(dataset_id, entry.path, entry.sha256)

    def read_named(self, dataset_id: str, name: str) -> bytes:
        """Return the encoded bytes of the image or mask with a path or, if there is none, an original path.

        Raises:
            InvalidRequest: if ``name`` is neither known nor in the layout.
            NotFound: if the dataset or the image does not exist.
            Corrupt: if the file is missing or was changed.
        """
        self._record(dataset_id)
        entry, *_ = self._index(dataset_id).select([name])
        return self._read(dataset_id, entry.path, entry.sha256)

    def white_level(self, dataset_id: str) -> WhiteLevel:
        """Return the white level by which the images of a dataset are decoded.

        Raises:
            NotFound: if the dataset does not exist.
        """
        record = self._record(dataset_id)
        return white_level_of(stored_depths(self._index(dataset_id).entries()), record.white_level)

    def masks_of(self, image: DatasetImage) -> tuple[bytes, ...]:
        """Return the encoded ground-truth masks of a test image; a pixel of any of them is defective.

        Raises:
            Corrupt: if a file is missing or was changed.
        """
        self._record(image.dataset)
        masks = self._index(image.dataset).masks_of(LayoutPath.parse(image.path))
        return tuple(self._read(image.dataset, mask.path, mask.sha256) for mask in masks)

    def unpaired(self, dataset_id: str) -> UnpairedFiles:
        """Return the masks without an image, and the defective test images without a mask.

        Raises:
            NotFound: if the dataset does not exist.
        """
        self._record(dataset_id)
        return self._index(dataset_id).unpaired()

    def add(self, dataset_id: str, path: str, data: bytes, sha256: bytes | None = None) -> bool:
        """Store an image or a mask as ``put`` does; return False if the dataset already has it."""
        return self.put(dataset_id, IncomingFile(path, data, sha256)) is Outcome.STORED

    def put(
        self, dataset_id: str, file: IncomingFile, before_replacing: BeforeReplacing | None = None
    ) -> Outcome:
        """Store an image or a mask.

        A path like those of the layout gets a safe name, see ``blemish_layouts``, unless the file has an
        original path.

        Args:
            dataset_id: id of an existing dataset.
            file: the image.
            before_replacing: called before other content of the path is replaced, and may prevent it by
                raising; None to replace nothing.

        Raises:
            InvalidRequest: if the path is not like the layout, the data does not match its digest, or image
                and mask differ in size.
            InvalidImage: if the data is not an image within the limits.
            NotFound: if the dataset does not exist.
            AlreadyExists: if the path has other content that may not be replaced.
            DiskFull: if the disk is full; nothing is stored then.
        """
        location, original = file.place()
        self._record(dataset_id)
        index = self._index(dataset_id)
        digest = hashlib.sha256(file.data)
        if file.sha256 is not None and file.sha256 != digest.digest():
            raise InvalidRequest(
                f"{file.shown}: the {len(file.data)} received bytes have the sha256 "
                f"{digest.hexdigest()}, not {file.sha256.hex()} as announced; send the file again",
                field="sha256",
            )
        path, replace = str(location), before_replacing is not None
        if index.contains(path, digest.hexdigest(), original=original, replace=replace):
            return Outcome.UNCHANGED
        try:
            entry = make_entry(location, file.data, self._limits, original)
        except InvalidImage as error:
            raise InvalidImage(f"{file.shown}: {error}", field=error.field) from error
        if file.provenance is not None:
            entry = entry.model_copy(update={"provenance": file.provenance})
        if before_replacing is not None and (existing := index.find(path)) is not None:
            before_replacing(dataset_id, {existing.path: existing.sha256})
        with disk_full_errors(self._root), index.writing(replace=replace) as store:
            return store(entry, file.data)

    def import_folder(
        self,
        dataset_id: str,
        category: str,
        folder: Path,
        roots: Sequence[Path],
        on_file: Callable[[int, int], None] | None = None,
        *,
        conversion: Conversion = AS_NAMED,
        white_level: int | None = None,
        before_replacing: BeforeReplacing | None = None,
    ) -> ImportResult:
        """Copy a folder in one of the known layouts into a new or existing dataset.

        Hidden files are ignored. Files that have no place in the dataset are skipped and reported. So are
        images that the dataset has with other content.

        Args:
            dataset_id: id of the dataset, created if missing.
            category: category of the dataset; if empty, the existing one, or the id of a new dataset.
            folder: absolute path below one of ``roots``.
            roots: folders that may be read.
            on_file: called after each file with the files done and in total.
            conversion: choices about the conversion of the folder.
            white_level: white level that a person gave; None keeps that of an existing dataset.
            before_replacing: called before other content of a path is replaced, and may prevent it by
                raising; None to replace nothing.

        Raises:
            InvalidRequest: if ``folder`` is outside ``roots`` or has no known layout. Also if none of the
                test images is good, or no image can be stored in a new dataset.
            NotFound: if the folder does not exist.
            AlreadyExists: if the dataset has another category.
            DiskFull: if the disk is full; images copied before are kept.
        """
        if white_level is not None:
            validate_level(white_level)
        source = ImportFolder.below(folder, roots, conversion)
        created = self._ensure_exists(dataset_id, category, lambda dataset: source.check_good(dataset))
        if white_level is not None:
            self.set_white_level(dataset_id, white_level)
        replacing = None if before_replacing is None else partial(before_replacing, dataset_id)
        with disk_full_errors(self._root):
            counts = source.copy(self._index(dataset_id), self._limits, on_file, replacing)
        if created and not self._index(dataset_id).entries():
            self.delete(dataset_id)
            raise InvalidRequest(
                f"no image was stored, so no dataset was created; {counts.summary()}", field="path"
            )
        return counts.result(self.get(dataset_id), self.unpaired(dataset_id), source.plan.layout)

    def list(self, after: str = "", limit: int = 100) -> _Datasets:
        """Return up to ``limit`` datasets with ids after ``after``, sorted by id."""
        if not self._root.is_dir():
            return []
        ids = sorted(
            child.parent.name
            for child in self._root.glob(f"*/{RECORD}")
            if re.fullmatch(ID, child.parent.name) and child.parent.name > after
        )
        return [self.get(dataset_id) for dataset_id in ids[:limit]]

    def _ensure_exists(
        self, dataset_id: str, category: str, check: Callable[[Dataset | None], None]
    ) -> bool:
        """Create the dataset if it does not exist, else check its category; return whether it is new.

        ``check`` may reject the existing dataset, or None before a dataset is created.
        """
        try:
            existing = self.get(dataset_id)
        except NotFound:
            check(None)
            self.create(dataset_id, category)
            return True
        if category not in ("", existing.category):
            raise AlreadyExists(
                f"{dataset_name(dataset_id)} already exists with the category {existing.category}, not "
                f"{category}; choose another id or that category"
            )
        check(existing)
        return False

    def _folder(self, dataset_id: str) -> Path:
        return self._root / validate_id(dataset_id, "dataset_id")

    def _record(self, dataset_id: str) -> DatasetRecord:
        path = self._folder(dataset_id) / RECORD
        try:
            return DatasetRecord.model_validate_json(read_regular(path, _MAX_RECORD_BYTES))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_such(dataset_id) from error
        except (OSError, ValidationError) as error:
            raise Corrupt(f"{path} is damaged; restore it from a backup, or delete the dataset") from error

    def _index(self, dataset_id: str) -> Index:
        with self._lock:
            if dataset_id not in self._indexes:
                self._indexes[dataset_id] = Index(self._folder(dataset_id), self._limits)
            return self._indexes[dataset_id]

    def _read(self, dataset_id: str, path: str, sha256: str) -> bytes:
        file = self._folder(dataset_id) / str(LayoutPath.parse(path))
        try:
            return self._index(dataset_id).read(path, sha256)
        except FileNotFoundError as error:
            raise Corrupt(f"{file} is missing; restore it from a backup, or delete the dataset") from error
        except OSError as error:
            raise Corrupt(
                f"{file} cannot be read ({error.strerror}); restore it from a backup, or delete the dataset"
            ) from error
        except ValueError as error:
            raise Corrupt(
                f"{file} is not the file that was stored; restore it from a backup, or delete the dataset"
            ) from error


def _no_such(dataset_id: str) -> NotFound:
    return NotFound(
        f"there is no {dataset_name(dataset_id)}; list the existing ones with `blemish dataset list`"
    )


def _image(record: DatasetRecord, entry: IndexEntry) -> DatasetImage | None:
    location = entry.layout_path
    if location.part == "ground_truth":
        return None
    return DatasetImage(
        dataset=record.id,
        category=record.category,
        path=entry.path,
        split=location.part,
        class_name=location.label,
        sha256=entry.sha256,
        width=entry.width,
        height=entry.height,
        original=entry.original,
    )
