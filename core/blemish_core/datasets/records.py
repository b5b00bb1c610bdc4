# SPDX-License-Identifier: Apache-2.0
"""Datasets and their images: records on disk, and values that the store returns."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from blemish_core.datasets.copies import copies_warnings, find_equal_files
from blemish_core.datasets.layout import LayoutPath
from blemish_core.imaging.white_level import (
    StoredDepth,
    WhiteLevel,
    white_level_of,
    white_level_warnings,
)
from blemish_layouts.names import printable

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """A dataset and the numbers of its images."""

    id: str
    category: str
    create_time: datetime
    """Time of creation, UTC."""
    train_images: int
    test_images: Mapping[str, int]
    """Number of test images by class, sorted by name."""
    masks: int
    size_bytes: int
    snapshot: str
    """SHA-256 of all paths and contents, in hex, independent of the order of upload."""
    white_level: WhiteLevel = field(default_factory=WhiteLevel)
    """White level by which the images are decoded."""
    warnings: tuple[str, ...] = ()
    """Warnings about images that do not fit the white level."""
    copies: tuple[str, ...] = ()
    """Warnings about equal files."""


@dataclass(frozen=True)
class DatasetImage:
    """An image of a dataset; width and height are in px."""

    dataset: str
    category: str
    path: str
    """Path in the dataset, such as test/crack/003.png."""
    split: Split
    class_name: str
    sha256: str
    """SHA-256 of the encoded bytes, in hex."""
    width: int
    height: int
    original: str = ""
    """Path of the file that was uploaded, if it differs from ``path``."""

    @property
    def shown(self) -> str:
        """Path for people: the original in one line, if there is one."""
        return printable(self.original or self.path)


class Outcome(StrEnum):
    """The effect of storing an image."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    """The dataset already had the image."""
    REPLACED = "replaced"
    """The path had other content, which is gone."""


@dataclass(frozen=True)
class SkippedFile:
    """A file of an upload or import that was not stored."""

    path: str
    """Path that the sender or the folder has, in valid Unicode."""
    reason: str
    expected: bool = False
    """True if no image is missing because of it, as with a text file among the images."""


@dataclass(frozen=True)
class UnpairedFiles:
    """Paths of masks that fit no image, and of defective test images without a mask."""

    masks: tuple[str, ...]
    images: tuple[str, ...]


class DatasetRecord(BaseModel):
    """The content of ``dataset.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    category: str
    create_time: AwareDatetime
    white_level: PositiveInt | None = None
    """White level that a person gave; None without one."""


class EntryDepth(BaseModel):
    """The depth of an image with samples of more than 8 bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    highest: NonNegativeInt
    """Highest sample as stored."""
    white: PositiveInt | None = None
    """White by the format or the file; None without a statement, 65,535 for fractions of white."""
    by_format: bool = False
    """True if the format defines white, so that no other level applies."""


class Provenance(BaseModel):
    """The origin of an image that was an indexed item, as it was when it was added."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str
    """Id of the item, a UUID."""
    model: str
    """Version of the index: models/MODEL/versions/N."""
    camera: str = ""
    time: AwareDatetime | None = None
    """Time at which the image was taken."""
    label: str = ""
    """Label as the index stores it; empty for an item without one."""
    label_class: str = ""
    score: float = 0.0
    """Score by the version of the index."""
    author: str = ""
    """Person who added the image."""
    caller: str = ""
    """Caller of the server that added the image."""
    added: AwareDatetime | None = None
    """Time at which the image was added."""


class IndexEntry(BaseModel):
    """A line of the index: one image or mask, its width and height in px."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: NonNegativeInt
    width: PositiveInt
    height: PositiveInt
    original: str = ""
    """Path of the file that was uploaded, if it differs from ``path``."""
    depth: EntryDepth | None = None
    """Depth of an image of more than 8 bits; None for others and for those that older versions stored."""
    provenance: Provenance | None = None
    """Origin of an image that was an indexed item."""

    @property
    def layout_path(self) -> LayoutPath:
        return LayoutPath.parse(self.path)

    @property
    def shown(self) -> str:
        """Path for people: the original in one line, if there is one."""
        return printable(self.original or self.path)


def summary(record: DatasetRecord, entries: Iterable[IndexEntry]) -> Dataset:
    """Return a dataset with the counts and the snapshot of its entries."""
    entries = list(entries)
    counts: Counter[tuple[str, str]] = Counter()
    size_bytes = 0
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.path):
        location = entry.layout_path
        counts[location.part, location.label] += 1
        size_bytes += entry.size_bytes
        digest.update(f"{entry.path} {entry.sha256}\n".encode())
    depths = stored_depths(entries)
    return Dataset(
        id=record.id,
        category=record.category,
        create_time=record.create_time,
        train_images=_total(counts, "train"),
        test_images={name: n for (part, name), n in sorted(counts.items()) if part == "test"},
        masks=_total(counts, "ground_truth"),
        size_bytes=size_bytes,
        snapshot=digest.hexdigest(),
        white_level=white_level_of(depths, record.white_level),
        warnings=tuple(white_level_warnings(depths, record.white_level, record.id)),
        copies=tuple(copies_warnings(find_equal_files(entries), record.id)),
    )


def stored_depths(entries: Iterable[IndexEntry]) -> list[StoredDepth]:
    """Return the depths of the images that have more than 8 bits."""
    return [
        StoredDepth(entry.path, entry.depth.highest, entry.depth.white, entry.depth.by_format)
        for entry in entries
        if entry.depth is not None
    ]


def _total(counts: Counter[tuple[str, str]], part: str) -> int:
    return sum(n for (each, _), n in counts.items() if each == part)
