# SPDX-License-Identifier: Apache-2.0
"""Storage of embeddings in Qdrant: one collection per model version.

Searches use a collection's published alias, which the first complete embed job sets, so that nothing finds
a half-filled index. Another alias, of the model, names the index that serves searches without a version. It
stays at the previous version until the index of the new one has all of its datasets and kept frames.

A point's id is derived from the model version and the image's content, so an image has one point in each
index.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client import models as qm

from blemish_core.platform.errors import InvalidRequest, NotFound
from blemish_core.platform.names import LATEST, ModelRef, item_id, item_prefix
from blemish_core.search.conditions import (
    ANY_ITEM,
    And,
    Comparison,
    Condition,
    Not,
    Operator,
    all_of,
    equals,
    one_of,
)
from blemish_core.search.item import (
    CAMERA,
    DATASET,
    INHERITED_KEYS,
    JOB_KEY,
    ORIGIN_KEYS,
    PAYLOAD_SCHEMA,
    UNKNOWN_TIME,
    Item,
    Label,
)
from blemish_core.search.item import item_id as indexed_id
from blemish_core.search.qdrant_channel import open_client
from blemish_core.search.qdrant_errors import (
    missing_as_not_found,
    other_errors_as_unavailable,
    translated_errors,
)
from blemish_core.search.qdrant_filter import compile_filter
from blemish_core.search.query import Vector

MAX_HITS = 1000
"""Maximum number of hits of one search."""
MAX_OFFSET = 10_000
"""Rank of the deepest page. Every page ranks all hits above it again."""
MAX_RANKED = MAX_OFFSET + MAX_HITS
"""Maximum number of hits that one search ranks, whether skipped, returned or grouped."""
TIMEOUT_S = 10
"""Maximum time of one call to Qdrant."""
UNLABELLED_FRAMES: Condition = And(
    (equals("source", CAMERA), Not(one_of("label", (label for label in Label if label))))
)
"""Condition of the camera frames that retention may remove."""
_LAST_ID = (1 << 128) - 1
_MAX_LISTED = 20  # values listed in an error
_MAX_EXAMPLES = 32  # labelled examples of one search
_STRICT = qm.StrictModeConfig(
    enabled=True,
    max_query_limit=MAX_RANKED,
    unindexed_filtering_retrieve=False,
    unindexed_filtering_update=False,
)
# Takes a quarter of the memory. Searches compare the best candidates again in full precision.
_QUANTIZED = qm.ScalarQuantization(
    scalar=qm.ScalarQuantizationConfig(type=qm.ScalarType.INT8, always_ram=True)
)


@dataclass(frozen=True)
class ItemOrder:
    """An order of items by a field that has an index.

    Scores are compared in single precision, as in the contract. The last bits of a stored double may differ
    from those in the index.
    """

    key: Literal["time", "score"]
    descending: bool = False

    def value_of(self, item: Item) -> float | datetime | None:
        """Return the value of an item, None if none is stored."""
        if self.key == "score":
            return float(np.float32(item.score))
        return item.time if item.time != UNKNOWN_TIME else None

    def equal(self, value: float | datetime | None) -> Condition:
        """Return the condition that an item has a value."""
        if not isinstance(value, float):
            return equals(self.key, value)
        low, high = _single_bounds(value)
        return And((Comparison(self.key, ">=", low), Comparison(self.key, "<", high)))

    def beyond(self, value: float | datetime) -> Condition:
        """Return the condition that an item has a later value."""
        operator: Operator = "<" if self.descending else ">"
        if not isinstance(value, float):
            return Comparison(self.key, operator, value)
        low, high = _single_bounds(value)
        return Comparison(self.key, "<", low) if self.descending else Comparison(self.key, ">=", high)

    def to_qdrant(self) -> qm.OrderBy:
        direction = qm.Direction.DESC if self.descending else qm.Direction.ASC
        return qm.OrderBy(key=self.key, direction=direction)


def _single_bounds(value: float) -> tuple[float, float]:
    """Return the half-open interval of the doubles that are nearest to a single-precision value."""
    single = np.float32(value)
    below, above = np.nextafter(single, np.float32(-np.inf)), np.nextafter(single, np.float32(np.inf))
    return (float(single) + float(below)) / 2, (float(single) + float(above)) / 2


@dataclass(frozen=True)
class OrderedAfter:
    """The last item of a page of an ordered listing."""

    value: float | datetime | None
    item: UUID


NEWEST_FIRST = ItemOrder("time", descending=True)


class SearchIndex:
    """The indexes of all model versions. Threads may share it."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, grpc_port: int, api_key: str = "", proxy: str = "") -> "SearchIndex":
        """Create an index whose first call opens the connection, through ``proxy`` if it is not empty."""
        return cls(open_client(url, grpc_port, api_key, proxy, timeout_s=TIMEOUT_S))

    def ping(self) -> None:
        """Raise Unavailable unless Qdrant responds and accepts the API key."""
        with other_errors_as_unavailable(), translated_errors():
            # Qdrant's health check would succeed with a wrong key too.
            self._client.collection_exists("blemish")

    # Collections and aliases

    def prepare(self, version: ModelRef, dimensions: int) -> bool:
        """Create the version's collection; return False if it exists already."""
        name = _collection(version)
        with translated_errors():
            if self._client.collection_exists(name):
                return False
            self._client.create_collection(
                name,
                vectors_config=qm.VectorParams(size=dimensions, distance=qm.Distance.COSINE),
                quantization_config=_QUANTIZED,
                strict_mode_config=_STRICT,
            )
            for field, schema in PAYLOAD_SCHEMA.items():
                self._client.create_payload_index(name, field, schema, wait=True)
        return True

    def drop(self, version: ModelRef) -> None:
        """Remove the version's index, if it has one."""
        with translated_errors():
            self._client.delete_collection(_collection(version))

    def publish(self, version: ModelRef) -> None:
        """Make the version's collection visible to searches."""
        self._set_alias(published_alias(version), version)

    def mark_frames(self, version: ModelRef) -> None:
        """Record that the version's collection contains all frames kept with earlier versions."""
        self._set_alias(_frames_alias(version), version)

    def set_serving_version(self, version: ModelRef) -> None:
        """Let the version's index serve searches by the model's name."""
        alias = _serving_alias(version.model)
        if self.serving_version(version.model) is None:
            self._set_alias(alias, version)
            return
        # Both operations take effect at once, so that no search falls between them.
        delete = qm.DeleteAliasOperation(delete_alias=qm.DeleteAlias(alias_name=alias))
        with translated_errors():
            self._client.update_collection_aliases([delete, _alias_operation(alias, version)])

    def serving_version(self, model: str) -> ModelRef | None:
        """Return the version whose index serves searches by the model's name, None if none does yet."""
        with translated_errors():
            for alias in self._client.get_aliases().aliases:
                if alias.alias_name == _serving_alias(model):
                    return _version(alias.collection_name)
        return None

    def resolve(self, ref: ModelRef, version: ModelRef) -> ModelRef:
        """Return the version whose index serves searches of ``ref``.

        Args:
            ref: a model, or one version of it: a fixed one or the latest one.
            version: the version that ``ref`` means in the model store.
        """
        if ref.version is not None or ref.alias == LATEST:
            return version
        return self.serving_version(version.model) or version

    def is_published(self, version: ModelRef) -> bool:
        """Return whether searches see an index of the version."""
        return version in self.published()

    def published(self) -> list[ModelRef]:
        """Return the versions of all models whose indexes searches see."""
        with translated_errors():
            aliases = self._client.get_aliases().aliases
        versions = {alias.alias_name: _version(alias.collection_name) for alias in aliases}
        return [
            version for name, version in versions.items() if version and name == published_alias(version)
        ]

    def versions(self) -> list[ModelRef]:
        """Return the versions of all models that have an index, published or not."""
        with translated_errors():
            names = [each.name for each in self._client.get_collections().collections]
        return [version for version in map(_version, names) if version is not None]

    def lacks_frames(self, version: ModelRef, before: ModelRef) -> bool:
        """Return whether ``before`` has kept frames that were not indexed by ``version``."""
        with translated_errors():
            names = {alias.alias_name for alias in self._client.get_aliases().aliases}
        if _frames_alias(version) in names:
            return False
        return self.count(before, equals("source", CAMERA)) > 0

    def _set_alias(self, alias: str, version: ModelRef) -> None:
        with translated_errors():
            self._client.update_collection_aliases([_alias_operation(alias, version)])

    # Writing

    def put(self, version: ModelRef, items: Sequence[Item], vectors: Vector, job: str = "") -> None:
        """Write items and their embeddings; existing points are replaced.

        An existing point keeps its label, camera, name and time, and the job that created it. A new point
        inherits them from the index that serves the model.

        Args:
            version: version of the index.
            items: items to write.
            vectors: their embeddings, of shape (len(items), dimensions).
            job: id of the job that writes, for ``discard``.

        Raises:
            NotFound: if the version's index was removed.
        """
        if not items:
            return
        if not np.isfinite(vectors).all():
            raise ValueError(f"an embedding by {version} is not finite; this is a bug")
        name, ids = _collection(version), [str(item.id) for item in items]
        new = dict(zip(ids, items, strict=True))
        with translated_errors(), missing_as_not_found(version):
            existing = self._client.retrieve(
                name, ids, with_payload=[*INHERITED_KEYS, *ORIGIN_KEYS, JOB_KEY]
            )
            kept = {str(point.id): _kept(point.payload or {}, new[str(point.id)]) for point in existing}
            kept |= self._inherited(version, [item for item in items if str(item.id) not in kept])
            points = [
                qm.PointStruct(
                    id=id,
                    vector=vector.tolist(),
                    payload=replace(item, model_version=str(version)).to_payload()
                    | {JOB_KEY: job}
                    | kept.get(id, {}),
                )
                for id, item, vector in zip(ids, items, vectors, strict=True)
            ]
            self._client.upsert(name, points, wait=True)

    def _inherited(self, version: ModelRef, new: Sequence[Item]) -> dict[str, dict[str, Any]]:
        """Return what new items inherit from the serving index, by their ids in this one."""
        before = self.serving_version(version.model) if new else None
        if before is None or before == version:
            return {}
        ids = {str(indexed_id(before, item.sha256)): str(item.id) for item in new}
        existing = self._client.retrieve(_collection(before), list(ids), with_payload=list(INHERITED_KEYS))
        return {ids[str(point.id)]: point.payload or {} for point in existing}

    def label(self, version: ModelRef, ids: Sequence[UUID], label: Label, label_class: str) -> None:
        """Set or clear the label of items.

        Raises:
            NotFound: if the version has no index.
        """
        points: list[Any] = [str(id) for id in ids]
        payload = {"label": str(label), "label_class": label_class}
        filled = {name: text for name, text in payload.items() if text}
        empty = [name for name, text in payload.items() if not text]
        with translated_errors(), missing_as_not_found(version):
            if filled:
                self._client.set_payload(published_alias(version), filled, points=points, wait=True)
            if empty:
                self._client.delete_payload(published_alias(version), empty, points=points, wait=True)

    def discard(self, version: ModelRef, job: str) -> None:
        """Remove the points that ``job`` created, and with the last one an unpublished collection."""
        name = _collection(version)
        with translated_errors():
            if not self._client.collection_exists(name):
                return
            self._delete(version, equals(JOB_KEY, job))
            if not self._client.get_collection_aliases(name).aliases and not self._client.count(name).count:
                self._client.delete_collection(name)

    def remove(self, version: ModelRef, ids: Sequence[UUID]) -> None:
        """Remove items; missing ones are ignored."""
        with translated_errors():
            if ids and self._client.collection_exists(_collection(version)):
                points = qm.PointIdsList(points=[str(id) for id in ids])
                self._client.delete(_collection(version), points, wait=True)

    def remove_dataset(self, version: ModelRef, dataset: str) -> None:
        """Remove all images of a dataset."""
        with translated_errors():
            self._delete(version, equals("dataset", dataset))

    def remove_images(self, version: ModelRef, dataset: str, images: Mapping[str, str]) -> None:
        """Remove images of a dataset, given as SHA-256 digests by path.

        An item that represents the same content under another path or dataset stays.
        """
        ids = [str(indexed_id(version, sha256)) for sha256 in images.values()]
        with translated_errors():
            existing = self._client.retrieve(_collection(version), ids, with_payload=["dataset", "path"])
        payloads = {UUID(str(point.id)): point.payload or {} for point in existing}
        matching = [
            id
            for id, payload in payloads.items()
            if payload.get("dataset") == dataset and payload.get("path") in images
        ]
        self.remove(version, matching)

    def _delete(self, version: ModelRef, where: Condition) -> None:
        selected = compile_filter(where)
        assert selected is not None, "an empty filter would select every point"
        self._client.delete(_collection(version), selected, wait=True)

    # Reading

    def count(self, version: ModelRef, where: Condition = ANY_ITEM) -> int:
        """Return the exact number of items in the published index that fit.

        Raises:
            NotFound: if the version has no published index.
        """
        with translated_errors(), missing_as_not_found(version):
            found = self._client.count(
                published_alias(version), count_filter=compile_filter(where), exact=True
            )
            return int(found.count)

    def check_published(self, version: ModelRef) -> None:
        """Reject a version without a published index.

        Raises:
            NotFound: if the version has no published index.
        """
        with translated_errors(), missing_as_not_found(version):
            self._client.get_collection(published_alias(version))

    def datasets(self, version: ModelRef) -> list[str]:
        """Return the datasets with images in the published index.

        Raises:
            NotFound: if the version has no published index.
        """
        return self._values(version, "dataset", limit=10_000)

    def item(self, version: ModelRef, id: UUID) -> Item:
        """Return one item.

        Raises:
            NotFound: if the version has no index, or the index has no such item.
        """
        with translated_errors(), missing_as_not_found(version):
            found = self._client.retrieve(published_alias(version), [str(id)], with_payload=True)
        if not found:
            raise NotFound(f"the index of {version} has no item {id}; search again")
        return Item.from_payload(found[0].id, found[0].payload or {})

    def items(
        self, version: ModelRef, where: Condition, size: int, after: UUID | None = None
    ) -> tuple[list[Item], UUID | None]:
        """Return a page of items that fit, by id, and the id that begins the next page, None at the end.

        Raises:
            NotFound: if the version has no index.
        """
        with translated_errors(), missing_as_not_found(version):
            page, following = self._client.scroll(
                published_alias(version),
                scroll_filter=compile_filter(where),
                limit=size,
                offset=str(after) if after else None,
                with_payload=True,
            )
        found = [Item.from_payload(point.id, point.payload or {}) for point in page]
        return found, UUID(str(following)) if following is not None else None

    def ordered_items(
        self, version: ModelRef, where: Condition, order: ItemOrder, size: int, after: OrderedAfter | None
    ) -> tuple[list[Item], OrderedAfter | None]:
        """Return a page of items that fit, by a field, and the place after which the next page begins.

        Items of equal value follow by id, and those without a value come last. Pages skip and repeat none.

        Args:
            version: version of the index.
            where: condition of the items.
            order: field and direction.
            size: number of items.
            after: place after which the page begins, None for the first page.

        Raises:
            NotFound: if the version has no index.
        """
        wanted = size + 1  # one more shows that there is a next page
        has_value = after is None or after.value is not None
        found: list[Item] = []
        if after is not None:
            found += self._by_id(version, where, order, after.value, wanted, after.item)
        if has_value and len(found) < wanted:
            beyond = where
            if after is not None and after.value is not None:
                beyond = all_of([where, order.beyond(after.value)])
            found += self._by_value(version, beyond, order, wanted - len(found))
        if has_value and len(found) < wanted:
            found += self._by_id(version, where, order, None, wanted - len(found))
        if len(found) < wanted:
            return found, None
        last = found[size - 1]
        return found[:size], OrderedAfter(order.value_of(last), last.id)

    def _by_value(self, version: ModelRef, where: Condition, order: ItemOrder, size: int) -> list[Item]:
        """Return the first items by a value, equal ones by id."""
        page = self._scroll(version, where, size, order_by=order.to_qdrant())
        found = [Item.from_payload(point.id, point.payload or {}) for point in page]
        found.sort(key=lambda item: item.id)
        found.sort(key=lambda item: order.value_of(item) or 0, reverse=order.descending)
        if len(found) == size:
            # The last value may have more items, and Qdrant returned any of them.
            value = order.value_of(found[-1])
            found = [item for item in found if order.value_of(item) != value]
            found += self._by_id(version, where, order, value, size - len(found))
        return found

    def _by_id(
        self,
        version: ModelRef,
        where: Condition,
        order: ItemOrder,
        value: float | datetime | None,
        size: int,
        after: UUID | None = None,
    ) -> list[Item]:
        """Return the first items after an id that have a value, or none if it is None."""
        start = str(UUID(int=min(after.int + 1, _LAST_ID))) if after is not None else None
        page = self._scroll(version, all_of([where, order.equal(value)]), size, offset=start)
        return [Item.from_payload(point.id, point.payload or {}) for point in page]

    def _scroll(self, version: ModelRef, where: Condition, size: int, **options: Any) -> list[qm.Record]:
        with translated_errors(), missing_as_not_found(version):
            page, _ = self._client.scroll(
                published_alias(version),
                scroll_filter=compile_filter(where),
                limit=size,
                with_payload=True,
                **options,
            )
        return page

    def resolve_item(self, version: ModelRef, name: str, field: str = "item") -> UUID:
        """Return the id of ``items/UUID``, of ``items/PREFIX`` that fits one item, or of ``items/latest``.

        An id of the same image in the index of another version of the model is accepted too.

        Raises:
            InvalidRequest: if the name has another form, or its prefix fits several items.
            NotFound: if no item fits, or the version has no index.
        """
        if name == f"items/{LATEST}":
            newest, _ = self.ordered_items(version, ANY_ITEM, NEWEST_FIRST, 1, None)
            if not newest:
                raise NotFound(f"the index of {version} has no items; keep frames with --keep")
            return newest[0].id
        prefix = item_prefix(name)
        if prefix is None:
            return self._current(version, item_id(name, field))
        fitting = self._beginning_with(version, published_alias(version), prefix)
        for other in self._others(version) if not fitting else ():
            older = self._beginning_with(other, _collection(other), prefix)
            current = {self._current(version, id) for id in older}
            fitting = sorted(id for id in current if self._has(version, id))
            if fitting:
                break
        if len(fitting) > 1:
            raise InvalidRequest(f"{name} fits several items; write more of its digits", field=field)
        if not fitting:
            raise NotFound(f"the index of {version} has no item {name}; list them with `blemish items`")
        return fitting[0]

    def _beginning_with(self, version: ModelRef, collection: str, prefix: str) -> list[UUID]:
        """Return at most two items of an index whose ids begin with the digits ``prefix``."""
        # Points are listed by id, so those with the prefix begin at its lowest id.
        lowest = UUID(prefix.ljust(32, "0"))
        with translated_errors(), missing_as_not_found(version):
            page, _ = self._client.scroll(collection, limit=2, offset=str(lowest), with_payload=False)
        return [id for point in page if (id := UUID(str(point.id))).hex.startswith(prefix)]

    def _current(self, version: ModelRef, id: UUID) -> UUID:
        """Return the id in this index of an item, which another version's index may have named.

        People keep names of items in files and messages, and an image has another id in each index.
        """
        if self._has(version, id):
            return id
        for other in self._others(version):
            with translated_errors():
                named = self._client.retrieve(_collection(other), [str(id)], with_payload=["sha256"])
            sha256 = (named[0].payload or {}).get("sha256") if named else None
            if sha256 and self._has(version, current := indexed_id(version, sha256)):
                return current
        return id

    def _has(self, version: ModelRef, id: UUID) -> bool:
        with translated_errors(), missing_as_not_found(version):
            return bool(self._client.retrieve(published_alias(version), [str(id)], with_payload=False))

    def _others(self, version: ModelRef) -> list[ModelRef]:
        """Return the other versions of the model that have an index, the newest first."""
        others = (each for each in self.versions() if each.model == version.model and each != version)
        return sorted(others, key=lambda each: each.version or 0, reverse=True)

    def oldest(self, version: ModelRef, where: Condition, size: int) -> list[Item]:
        """Return at most ``size`` items that fit, oldest first."""
        return self._by_time(version, where, size, qm.Direction.ASC)

    def newest(self, version: ModelRef, where: Condition, size: int) -> list[Item]:
        """Return at most ``size`` items that fit, newest first.

        Raises:
            NotFound: if the version has no published index.
        """
        return self._by_time(version, where, size, qm.Direction.DESC)

    def _by_time(
        self, version: ModelRef, where: Condition, size: int, direction: qm.Direction
    ) -> list[Item]:
        with translated_errors(), missing_as_not_found(version):
            page, _ = self._client.scroll(
                published_alias(version),
                scroll_filter=compile_filter(where),
                limit=size,
                order_by=qm.OrderBy(key="time", direction=direction),
                with_payload=True,
            )
        return [Item.from_payload(point.id, point.payload or {}) for point in page]

    def labelled_examples(self, version: ModelRef, label_class: str) -> tuple[list[UUID], list[UUID]]:
        """Return items that people confirmed as a kind of defect, and items labelled as false alarms.

        Raises:
            NotFound: if the version has no index, or no confirmed item of the class.
        """
        confirmed = And((equals("label", str(Label.CONFIRMED)), equals("label_class", label_class)))
        positive, _ = self.items(version, confirmed, _MAX_EXAMPLES)
        if not positive:
            known = filter(None, self._values(version, "label_class", _MAX_LISTED))
            raise NotFound(
                f"the index of {version} has no confirmed item of class {label_class!r}; the classes are: "
                + (", ".join(sorted(known)) or "none, label some with `blemish label`")
            )
        negative, _ = self.items(version, equals("label", str(Label.FALSE_ALARM)), _MAX_EXAMPLES)
        return [item.id for item in positive], [item.id for item in negative]

    def dimensions(self, version: ModelRef) -> int:
        """Return the length of the published index's embeddings.

        Raises:
            NotFound: if the version has no published index.
        """
        with translated_errors(), missing_as_not_found(version):
            vectors = self._client.get_collection(published_alias(version)).config.params.vectors
        assert isinstance(vectors, qm.VectorParams)
        return int(vectors.size)

    def check_values_exist(self, version: ModelRef, values: Mapping[str, Sequence[str]]) -> None:
        """Reject a value that no item has: an empty result would look as if nothing were similar.

        Args:
            version: version of the index.
            values: values by the key of the keyword field.

        Raises:
            NotFound: if no item has one of the values, or the version has no index.
        """
        for field, wanted in values.items():
            existing = self._values(version, field, len(wanted), one_of(field, wanted))
            if missing := [value for value in wanted if value not in existing]:
                known = ", ".join(sorted(self._values(version, field, _MAX_LISTED)))
                raise NotFound(
                    f"no image in the index of {version} has {field} {missing[0]!r}; there are: {known}"
                )

    def _values(self, version: ModelRef, field: str, limit: int, where: Condition = ANY_ITEM) -> list[str]:
        """Return values of a keyword field, the most frequent first."""
        with translated_errors(), missing_as_not_found(version):
            hits = self._client.facet(
                published_alias(version), field, facet_filter=compile_filter(where), limit=limit, exact=True
            ).hits
        return [str(hit.value) for hit in hits]


def _kept(before: Mapping[str, Any], new: Item) -> dict[str, Any]:
    """Return the part of a point's payload that stays when its image is indexed again."""
    keys = [*INHERITED_KEYS, JOB_KEY]
    if new.source == CAMERA and before.get("source") == DATASET:
        keys += ORIGIN_KEYS
    return {name: before[name] for name in keys if name in before}


def _alias_operation(alias: str, version: ModelRef) -> qm.CreateAliasOperation:
    create = qm.CreateAlias(collection_name=_collection(version), alias_name=alias)
    return qm.CreateAliasOperation(create_alias=create)


def _collection(version: ModelRef) -> str:
    return f"blemish.{version.model}.{version.version}"


def published_alias(version: ModelRef) -> str:
    """Return the alias by which the version's collection is searched once it is published."""
    return f"{_collection(version)}.published"


def _frames_alias(version: ModelRef) -> str:
    return f"{_collection(version)}.frames"


def _serving_alias(model: str) -> str:
    return f"blemish.{model}.production"


def _version(collection: str) -> ModelRef | None:
    """Return the version whose collection has this name, None if the collection is not blemish's."""
    match = re.fullmatch(r"blemish\.(.+)\.(\d+)", collection)
    return ModelRef(match[1], int(match[2])) if match else None
