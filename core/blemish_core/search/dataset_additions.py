# SPDX-License-Identifier: Apache-2.0
"""Copies of indexed items in a dataset, so that trainings and evaluations learn from the line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from blemish_core.datasets import DatasetStore, IncomingFile, Provenance
from blemish_core.datasets.records import Split
from blemish_core.imaging.decode import ImageLimits, read_header
from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidImage, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import UNKNOWN_TIME, Item, Label
from blemish_core.search.item_images import ItemImages
from blemish_core.search.search_index import SearchIndex
from blemish_layouts.names import GOOD, class_of, is_good

DEFAULT_CLASS = "defect"
"""Class of confirmed defects that have none."""
_EXTENSIONS = {
    "BMP": ".bmp",
    "JPEG": ".jpg",
    "JPEG2000": ".jp2",
    "PNG": ".png",
    "PPM": ".ppm",
    "TIFF": ".tif",
    "WEBP": ".webp",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_MAX_CAMERA = 40  # characters of a camera in the name of a file


class AdditionOutcome(StrEnum):
    """The effect of adding an item."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """The dataset already had an image of equal content."""
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Addition:
    """The outcome of adding an item."""

    item: UUID
    outcome: AdditionOutcome
    path: str = ""
    """Path in the dataset; empty if the item was left out."""
    reason: str = ""
    """Reason for which it was left out."""


@dataclass(frozen=True)
class AdditionRules:
    """The choices of a person who adds items."""

    split: Split
    default_class: str = DEFAULT_CLASS
    """Class of confirmed defects without a class."""
    unlabelled_class: str = ""
    """Class of items without a label; empty to leave them out."""
    author: str = ""
    """Person who adds the items."""
    caller: str = ""
    """Caller of the server."""

    def class_name(self, item: Item) -> str:
        """Return the class under which an item is added.

        Raises:
            InvalidRequest: if the item does not belong in the split; the message is the reason.
        """
        match item.label:
            case Label.GOOD | Label.FALSE_ALARM:
                return GOOD
            case Label.CONFIRMED:
                name = class_of(item.label_class or self.default_class)
                if is_good(name):
                    raise InvalidRequest(
                        f"it is confirmed as a defect of the class {name}; label it as good"
                    )
            case _ if not self.unlabelled_class:
                raise InvalidRequest("it has no label; label it, or give a class for items without one")
            case _:
                name = class_of(self.unlabelled_class)
                name = GOOD if is_good(name) else name
        if self.split == "train" and name != GOOD:
            raise InvalidRequest("a defect cannot be a training image; add it to the test images")
        return name


class DatasetAdditions:
    """Adds indexed items to datasets."""

    def __init__(
        self, datasets: DatasetStore, index: SearchIndex, images: ItemImages, limits: ImageLimits
    ) -> None:
        self._datasets = datasets
        self._index = index
        self._images = images
        self._limits = limits

    def add(
        self, version: ModelRef, names: Sequence[str], dataset_id: str, rules: AdditionRules
    ) -> list[Addition]:
        """Copy items into a dataset; return what became of each.

        Args:
            version: version of the index.
            names: names of the items, as ``SearchIndex.resolve_item`` takes them.
            dataset_id: id of an existing dataset.
            rules: choices of the person.

        Raises:
            InvalidRequest: if a name is malformed.
            NotFound: if an item or the dataset does not exist; nothing is added then.
            DiskFull: if the disk is full; items added before stay.
        """
        paths = {
            entry.sha256: entry.path
            for entry in self._datasets.entries(dataset_id)
            if entry.layout_path.part != "ground_truth"
        }
        ids = [self._index.resolve_item(version, name, "items") for name in names]
        items = [self._index.item(version, id) for id in ids]
        return [self._add(version, item, dataset_id, rules, paths) for item in items]

    def _add(
        self, version: ModelRef, item: Item, dataset_id: str, rules: AdditionRules, paths: dict[str, str]
    ) -> Addition:
        """Add an item, and its path to ``paths``, which has those of the dataset by digest."""
        if item.sha256 in paths:
            return Addition(item.id, AdditionOutcome.DUPLICATE, paths[item.sha256])
        try:
            class_name = rules.class_name(item)
            data = self._images.read(version, item)
            name = _file_name(item, read_header(data, self._limits).format)
            path = f"{rules.split}/{class_name}/{name}"
            file = IncomingFile(
                path, data, bytes.fromhex(item.sha256), provenance=_provenance(version, item, rules)
            )
            self._datasets.put(dataset_id, file)
        except (AlreadyExists, Corrupt, InvalidImage, InvalidRequest) as error:
            return Addition(item.id, AdditionOutcome.LEFT_OUT, reason=str(error))
        except NotFound as error:
            self._datasets.require(dataset_id)
            return Addition(item.id, AdditionOutcome.LEFT_OUT, reason=str(error))
        paths[item.sha256] = path
        return Addition(item.id, AdditionOutcome.STORED, path)


def _file_name(item: Item, image_format: str) -> str:
    """Return a name with the camera, the time in UTC and the first digits of the item."""
    camera = _UNSAFE.sub("-", item.camera).strip("-")[:_MAX_CAMERA] or "item"
    time = item.time.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{camera}_{time}_{item.id.hex[:8]}{_EXTENSIONS.get(image_format, '.png')}"


def _provenance(version: ModelRef, item: Item, rules: AdditionRules) -> Provenance:
    return Provenance(
        item=str(item.id),
        model=str(version),
        camera=item.camera,
        time=item.time if item.time != UNKNOWN_TIME else None,
        label=str(item.label),
        label_class=item.label_class,
        score=item.score,
        author=rules.author,
        caller=rules.caller,
        added=datetime.now(UTC),
    )
