# SPDX-License-Identifier: Apache-2.0
"""Datasets on disk: ``root/<id>/`` holds ``dataset.json``, the index, and images in MVTec AD's layout."""

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from uuid import uuid4

from pydantic import ValidationError

from blemish_core.datasets.folder_import import ImportFolder, ImportResult
from blemish_core.datasets.index import INDEX, LOCK, Index, make_entry, new_index
from blemish_core.datasets.layout import LayoutPath
from blemish_core.datasets.records import Dataset, DatasetImage, DatasetRecord, IndexEntry, Split, summary
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidImage, InvalidRequest, NotFound
from blemish_core.platform.files import disk_full_errors, fsync, publish_directory, staged_directory
from blemish_core.platform.names import ID, dataset_name, validate_id

_CARD = "dataset.json"
_DELETED = ".deleted-"

_Datasets = list[Dataset]  # the store's own ``list`` hides the type
_Images = list[DatasetImage]
_Entries = list[IndexEntry]


class DatasetStore:
    """The datasets below ``root``.

    Any number of threads and processes may read and write at once.
    """

    def __init__(self, root: Path, limits: ImageLimits) -> None:
        self._root = root
        self._limits = limits
        self._indexes: dict[str, Index] = {}
        self._lock = Lock()

    def create(self, dataset_id: str, category: str) -> Dataset:
        """Make an empty dataset.

        Raises:
            InvalidRequest: if the id or the category is malformed.
            AlreadyExists: if the id is taken.
            DiskFull: if the disk is full.
        """
        folder = self._folder(dataset_id)
        card = DatasetRecord(
            id=dataset_id,
            category=validate_id(category or dataset_id, "category"),
            create_time=datetime.now(UTC),
        )
        with disk_full_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            with staged_directory(self._root / f".{dataset_id}.{uuid4().hex}") as staging:
                (staging / LOCK).touch()
                (staging / INDEX).write_bytes(new_index())
                (staging / _CARD).write_bytes(card.model_dump_json(indent=2).encode())
                if not publish_directory(staging, folder):
                    raise AlreadyExists(
                        f"{dataset_name(dataset_id)} already exists; upload to it or choose another id"
                    )
        return self.get(dataset_id)

    def require(self, dataset_id: str) -> None:
        """Raise NotFound unless there is such a dataset, damaged or not."""
        if not (self._folder(dataset_id) / _CARD).exists():
            raise _no_such(dataset_id)

    def get(self, dataset_id: str) -> Dataset:
        """Count a dataset's images.

        Raises:
            NotFound: if there is no such dataset.
            Corrupt: if its card cannot be read.
        """
        card = self._card(dataset_id)
        return summary(card, self._index(dataset_id).entries())

    def images(self, dataset_id: str, split: Split | None = None) -> _Images:
        """The images, without masks, by path.

        Raises:
            NotFound: if there is no such dataset.
        """
        card = self._card(dataset_id)
        images = (_image(card, entry) for entry in self._index(dataset_id).entries())
        return [image for image in images if image and split in (None, image.split)]

    def entries(self, dataset_id: str, prefix: str = "", after: str = "") -> _Entries:
        """Images and masks by path, those that begin with ``prefix`` and sort behind ``after``.

        Raises:
            NotFound: if there is no such dataset.
        """
        self._card(dataset_id)
        entries = self._index(dataset_id).entries()
        return [entry for entry in entries if entry.path.startswith(prefix) and entry.path > after]

    def select(self, dataset_id: str, paths: Sequence[str]) -> _Entries:
        """What is under ``paths``, each once, and the masks of the images among it.

        Raises:
            InvalidRequest: if one is not in the layout.
            NotFound: if there is no such dataset, or nothing under one of them.
        """
        self._card(dataset_id)
        return self._index(dataset_id).select(str(LayoutPath.parse(path)) for path in paths)

    def remove(self, dataset_id: str, paths: Sequence[str]) -> None:
        """Take images and masks out of a dataset.

        Raises:
            InvalidRequest: if a path is not in the layout.
            NotFound: if there is no such dataset, or nothing under one of them; then all stay.
            DiskFull: if the disk has no room for the new index.
        """
        self._card(dataset_id)
        with disk_full_errors(self._root):
            self._index(dataset_id).remove(str(LayoutPath.parse(path)) for path in paths)

    def delete(self, dataset_id: str) -> None:
        """Remove a dataset, also a damaged one: for everybody at once, then file by file.

        Raises:
            NotFound: if there is no such dataset.
        """
        self.require(dataset_id)
        folder = self._folder(dataset_id)
        with self._index(dataset_id).exclusive():
            folder.rename(self._root / f".{dataset_id}{_DELETED}{uuid4().hex}")
            fsync(self._root)
        # Those too that were left by whoever was killed here.
        for gone in self._root.glob(f".*{_DELETED}*"):
            shutil.rmtree(gone, ignore_errors=True)

    def read(self, image: DatasetImage) -> bytes:
        """Return the encoded bytes.

        Raises:
            Corrupt: if they are not those that were stored.
        """
        return self._read(image.dataset, image.path, image.sha256)

    def read_path(self, dataset_id: str, path: str) -> bytes:
        """Return the encoded bytes of what is under ``path``.

        Raises:
            InvalidRequest: if ``path`` is not in the layout.
            NotFound: if nothing is there.
            Corrupt: if it is not what was stored.
        """
        slot = LayoutPath.parse(path)
        self._card(dataset_id)
        entry = self._index(dataset_id).find(str(slot))
        if entry is None:
            raise NotFound(f"{dataset_name(dataset_id)} has no {path}")
        return self._read(dataset_id, entry.path, entry.sha256)

    def mask_of(self, image: DatasetImage) -> bytes | None:
        """Return the encoded ground truth of a test image, if it was uploaded.

        Raises:
            Corrupt: if it is not what was stored.
        """
        self._card(image.dataset)
        entry = self._index(image.dataset).partner(LayoutPath.parse(image.path))
        return self._read(image.dataset, entry.path, entry.sha256) if entry else None

    def add(self, dataset_id: str, path: str, data: bytes, sha256: bytes | None = None) -> bool:
        """Store an image or a mask; false if it is there already.

        Args:
            dataset_id: of a dataset that exists.
            path: test/crack/003.png, see ``layout``.
            data: the encoded image.
            sha256: what ``data`` must hash to, 32 bytes.

        Raises:
            InvalidRequest: if ``path`` is outside the layout, ``data`` does not fit ``sha256``, or a mask
                and its image differ in size.
            InvalidImage: if ``data`` is no image within the limits.
            NotFound: if there is no such dataset.
            AlreadyExists: if other content is under ``path``.
            DiskFull: if the disk is full; nothing is left behind.
        """
        slot = LayoutPath.parse(path)
        self._card(dataset_id)
        index = self._index(dataset_id)
        digest = hashlib.sha256(data)
        if sha256 is not None and sha256 != digest.digest():
            raise InvalidRequest(
                f"{path}: the {len(data)} bytes that came have the sha256 {digest.hexdigest()}, not "
                f"{sha256.hex()} as announced; send it again",
                field="sha256",
            )
        if index.contains(path, digest.hexdigest()):
            return False
        try:
            entry = make_entry(slot, data, self._limits)
        except InvalidImage as error:
            raise InvalidImage(f"{path}: {error}", field=error.field) from error
        with disk_full_errors(self._root), index.writing() as store:
            return store(entry, data)

    def import_folder(
        self,
        dataset_id: str,
        category: str,
        folder: Path,
        roots: Sequence[Path],
        on_file: Callable[[int, int], None] | None = None,
    ) -> ImportResult:
        """Copy a folder in the layout into a dataset, which is made if it is not there.

        Files outside train, test and ground_truth and hidden files do not count; of the others, what is no
        image of the layout is skipped and named.

        Args:
            dataset_id: may exist.
            category: if empty, that of the dataset, or its id if it is new.
            folder: absolute, below one of ``roots``.
            roots: the only folders that may be read.
            on_file: is told after each file how many are done, and of how many.

        Raises:
            InvalidRequest: if ``folder`` is outside ``roots`` or not in the layout.
            NotFound: if there is no such folder.
            AlreadyExists: if the dataset has another category, or other content under one of the paths.
            DiskFull: if the disk is full; what was copied before stays.
        """
        source = ImportFolder.below(folder, roots)
        self._make_sure(dataset_id, category)
        with disk_full_errors(self._root):
            tally = source.copy(self._index(dataset_id), self._limits, on_file)
        return tally.result(self.get(dataset_id))

    def list(self, after: str = "", limit: int = 100) -> _Datasets:
        """Up to ``limit`` datasets whose ids come after ``after``, by id."""
        if not self._root.is_dir():
            return []
        ids = sorted(
            child.parent.name
            for child in self._root.glob(f"*/{_CARD}")
            if re.fullmatch(ID, child.parent.name) and child.parent.name > after
        )
        return [self.get(dataset_id) for dataset_id in ids[:limit]]

    def _make_sure(self, dataset_id: str, category: str) -> None:
        """Have the dataset there, with this category."""
        try:
            there = self._card(dataset_id).category
        except NotFound:
            self.create(dataset_id, category)
            return
        if category not in ("", there):
            raise AlreadyExists(
                f"{dataset_name(dataset_id)} is there with the category {there}, not {category}: "
                "choose another id or that category"
            )

    def _folder(self, dataset_id: str) -> Path:
        return self._root / validate_id(dataset_id, "dataset_id")

    def _card(self, dataset_id: str) -> DatasetRecord:
        path = self._folder(dataset_id) / _CARD
        try:
            return DatasetRecord.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_such(dataset_id) from error
        except ValidationError as error:
            raise Corrupt(f"{path} is damaged: restore it from a backup, or remove the dataset") from error

    def _index(self, dataset_id: str) -> Index:
        with self._lock:
            if dataset_id not in self._indexes:
                self._indexes[dataset_id] = Index(self._folder(dataset_id), self._limits)
            return self._indexes[dataset_id]

    def _read(self, dataset_id: str, path: str, sha256: str) -> bytes:
        file = self._folder(dataset_id) / str(LayoutPath.parse(path))
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(f"{file} is gone: restore it from a backup, or remove the dataset") from error
        except OSError as error:
            raise Corrupt(
                f"{file} cannot be read ({error.strerror}): restore it from a backup, or remove the dataset"
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"{file} is not what was stored: restore it from a backup, or remove the dataset")
        return data


def _no_such(dataset_id: str) -> NotFound:
    return NotFound(
        f"there is no {dataset_name(dataset_id)}; `blemish dataset list` lists those that are there"
    )


def _image(card: DatasetRecord, entry: IndexEntry) -> DatasetImage | None:
    slot = entry.layout_path
    if slot.part == "ground_truth":
        return None
    return DatasetImage(
        dataset=card.id,
        category=card.category,
        path=entry.path,
        split=slot.part,
        class_name=slot.class_name,
        sha256=entry.sha256,
        width=entry.width,
        height=entry.height,
    )
