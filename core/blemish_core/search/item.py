# SPDX-License-Identifier: Apache-2.0
"""An indexed image, and the payload of its point in Qdrant."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from qdrant_client import models as qm

from blemish_core.localization.defect_region import (
    DefectRegion,
    regions_from_text,
    regions_to_text,
)
from blemish_core.platform.names import ModelRef

JOB_KEY = "brought_by"
"""Payload key of the job that indexed an image first."""
PAYLOAD_SCHEMA = {
    "dataset": qm.PayloadSchemaType.KEYWORD,
    "category": qm.PayloadSchemaType.KEYWORD,
    "class_name": qm.PayloadSchemaType.KEYWORD,
    "model_version": qm.PayloadSchemaType.KEYWORD,
    "camera": qm.PayloadSchemaType.KEYWORD,
    "name": qm.PayloadSchemaType.KEYWORD,
    "source": qm.PayloadSchemaType.KEYWORD,
    "label": qm.PayloadSchemaType.KEYWORD,
    "label_class": qm.PayloadSchemaType.KEYWORD,
    JOB_KEY: qm.PayloadSchemaType.KEYWORD,
    "anomalous": qm.PayloadSchemaType.BOOL,
    "score": qm.PayloadSchemaType.FLOAT,
    "p_value": qm.PayloadSchemaType.FLOAT,
    "time": qm.PayloadSchemaType.DATETIME,
}
"""Payload indexes. They are created with the collection: HNSW ignores later ones (qdrant#6937)."""


DATASET, CAMERA = "dataset", "camera"
"""Sources of an item, as filters name them."""
UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
"""Time of an item without one, which an older version indexed."""


class Label(StrEnum):
    """A person's judgement of an item."""

    NONE = ""
    CONFIRMED = "CONFIRMED"
    """A defect."""
    FALSE_ALARM = "FALSE_ALARM"
    """A good surface that the model scored as anomalous."""
    GOOD = "GOOD"


INHERITED_KEYS = ("label", "label_class", "camera", "name", "time")
"""Payload keys that survive when an image is indexed again, or by another model version."""
ORIGIN_KEYS = ("source", "dataset", "category", "path", "original_path", "class_name")
"""Payload keys of an image's place. An image of a dataset keeps it when a camera sends the same image."""


@dataclass(frozen=True)
class Item:
    """An indexed image."""

    id: UUID
    sha256: str
    """SHA-256 digest of the encoded image, in hex."""
    score: float
    p_value: float
    anomalous: bool
    source: str = DATASET
    dataset: str = ""
    """Dataset of the image; empty for camera frames, as are category, path and class."""
    category: str = ""
    path: str = ""
    """Path in the dataset, such as test/crack/003.png."""
    original_path: str = ""
    """Path of the file that was uploaded to the dataset, if it differs from ``path``."""
    class_name: str = ""
    """Class that the image's folder names."""
    camera: str = ""
    """Camera that took the image, if known."""
    name: str = ""
    """Name that was sent with a camera frame, such as that of its file."""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Time at which the image was taken, or else first indexed."""
    model_version: str = ""
    label: Label = Label.NONE
    label_class: str = ""
    """Kind of a confirmed defect."""
    regions: tuple[DefectRegion, ...] = ()
    """Outlines of the defects, in px of the image; the payload keeps the first few, with fewer corners."""

    def to_payload(self) -> dict[str, object]:
        """Return the payload of the item's point, without empty values so that "is empty" filters work."""
        payload = {name: getattr(self, name) for name in _PAYLOAD_FIELDS}
        payload |= {
            "label": str(self.label),
            "time": self.time.isoformat(),
            "regions": regions_to_text(self.regions),
        }
        return {name: value for name, value in payload.items() if value != ""}

    @classmethod
    def from_payload(cls, id: object, payload: Mapping[str, object]) -> "Item":
        """Return the item of a point; fields newer than the point have their defaults."""
        known: dict[str, Any] = {name: value for name, value in payload.items() if name in _PAYLOAD_FIELDS}
        known["label"] = Label(known.get("label", ""))
        known["regions"] = regions_from_text(known.get("regions", ""))
        known["time"] = datetime.fromisoformat(known["time"]) if "time" in known else UNKNOWN_TIME
        return cls(id=UUID(str(id)), **known)


_PAYLOAD_FIELDS = frozenset(each.name for each in fields(Item) if each.name != "id")


def item_id(version: ModelRef, sha256: str) -> UUID:
    """Return the id of an image's point in the index of ``version``."""
    return uuid5(NAMESPACE_URL, f"blemish:{version}:{sha256}")
