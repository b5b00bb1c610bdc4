# SPDX-License-Identifier: Apache-2.0
"""An indexed image, and the payload that its point carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from qdrant_client import models as qm

from blemish_core.platform.names import ModelRef

BROUGHT_BY = "brought_by"
INDEXED = {
    "dataset": qm.PayloadSchemaType.KEYWORD,
    "category": qm.PayloadSchemaType.KEYWORD,
    "class_name": qm.PayloadSchemaType.KEYWORD,
    "model_version": qm.PayloadSchemaType.KEYWORD,
    "camera": qm.PayloadSchemaType.KEYWORD,
    "source": qm.PayloadSchemaType.KEYWORD,
    "label": qm.PayloadSchemaType.KEYWORD,
    "label_class": qm.PayloadSchemaType.KEYWORD,
    BROUGHT_BY: qm.PayloadSchemaType.KEYWORD,
    "anomalous": qm.PayloadSchemaType.BOOL,
    "score": qm.PayloadSchemaType.FLOAT,
    "p_value": qm.PayloadSchemaType.FLOAT,
    "time": qm.PayloadSchemaType.DATETIME,
}
"""Created with the collection: an index made after the load is not used by HNSW (qdrant#6937)."""


DATASET, CAMERA = "dataset", "camera"
"""Where an item comes from, as conditions name it."""
_UNKNOWN = datetime.fromtimestamp(0, UTC)


class Label(StrEnum):
    """What a person says of an item."""

    NONE = ""
    CONFIRMED = "CONFIRMED"
    """A defect."""
    FALSE_ALARM = "FALSE_ALARM"
    """Good, though the model said otherwise."""
    GOOD = "GOOD"


KEPT = ("label", "label_class", "camera", "time")
"""What is known of an image beyond its pixels: not lost when it is indexed again, or by another version."""
ORIGIN = ("source", "dataset", "category", "path", "class_name")
"""Where an image is. One of a dataset stays that when a camera sends the same."""


@dataclass(frozen=True)
class Item:
    """An indexed image."""

    id: UUID
    sha256: str
    """Of the encoded image."""
    score: float
    p_value: float
    anomalous: bool
    source: str = DATASET
    dataset: str = ""
    """Empty, as category, path and class, for a frame that a camera sent."""
    category: str = ""
    path: str = ""
    """In the dataset: test/crack/003.png."""
    class_name: str = ""
    """As its folder says."""
    camera: str = ""
    """That took it, if it said so."""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it was taken, else when it was first indexed."""
    model_version: str = ""
    label: Label = Label.NONE
    label_class: str = ""
    """The defect, where a person confirmed one."""

    def payload(self) -> dict[str, object]:
        """Return what its point carries; what is empty is left out, as Qdrant's "is empty" wants it."""
        told = {name: getattr(self, name) for name in _TOLD}
        told |= {"label": str(self.label), "time": self.time.isoformat()}
        return {name: value for name, value in told.items() if value != ""}

    @classmethod
    def read(cls, id: object, payload: Mapping[str, object]) -> "Item":
        """Return what ``payload`` wrote; points from before a field have its default."""
        known: dict[str, Any] = {name: value for name, value in payload.items() if name in _TOLD}
        known["label"] = Label(known.get("label", ""))
        known["time"] = datetime.fromisoformat(known["time"]) if "time" in known else _UNKNOWN
        return cls(id=UUID(str(id)), **known)


_TOLD = frozenset(each.name for each in fields(Item) if each.name != "id")


def item_id(version: ModelRef, sha256: str) -> UUID:
    """The id of an image's point in the index of ``version``."""
    return uuid5(NAMESPACE_URL, f"blemish:{version}:{sha256}")
