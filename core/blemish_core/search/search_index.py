# SPDX-License-Identifier: Apache-2.0
"""Qdrant, one collection a model version.

A collection is searched through an alias that the first complete embed job sets, so nobody sees a half-made
index. Another alias, the model's, says which version's index answers where a query names no version: that
in production, or the one before for as long as the new one's lacks a dataset, or kept frames, that the old
one's has.

A point's id follows from the model version and the image's content: the same image again is the same point.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client import models as qm

from blemish_core.platform.errors import NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search.failures import no_index, translated
from blemish_core.search.item import (
    BROUGHT_BY,
    CAMERA,
    DATASET,
    INDEXED,
    KEPT,
    ORIGIN,
    Item,
    Label,
    item_id,
)
from blemish_core.search.query import Filter, Vector, any_of

MOST_HITS = 1000
"""Of one search."""
DEEPEST = 10_000
"""Hits down the ranking that pages lead to: each is ranked again for every page below it."""
MOST_RANKED = DEEPEST + MOST_HITS
"""Hits of one search, whether they are left out, returned, or spread over groups."""
TIMEOUT_S = 10
"""Of one call to Qdrant."""
CHANNEL = {
    "grpc.max_receive_message_length": 64 << 20,
    # Find a Qdrant that comes back within a second, not within two minutes.
    "grpc.max_reconnect_backoff_ms": 1000,
}
"""How calls to Qdrant go out."""
_NAMED = 20  # values listed in a refusal
_MOST_LABELLED = 32  # examples of a class that are searched by
_STRICT = qm.StrictModeConfig(
    enabled=True,
    max_query_limit=MOST_RANKED,
    unindexed_filtering_retrieve=False,
    unindexed_filtering_update=False,
)
# A quarter of the memory; what is lost is found again in full precision, see ``oversampling``.
_QUANTIZED = qm.ScalarQuantization(
    scalar=qm.ScalarQuantizationConfig(type=qm.ScalarType.INT8, always_ram=True)
)


class SearchIndex:
    """Reads and writes the indexes of all model versions. Safe to share between threads."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, grpc_port: int, api_key: str = "") -> "SearchIndex":
        """Prepare a connection; nothing is sent before the first call. A key if Qdrant asks for one."""
        parts = urlsplit(url)
        client = QdrantClient(
            url=url,
            port=parts.port or 6333,
            grpc_port=grpc_port,
            prefer_grpc=True,
            api_key=api_key or None,
            timeout=TIMEOUT_S,
            check_compatibility=False,  # would probe over REST, which the embedded one has not
            grpc_options=dict(CHANNEL),  # it writes into it
        )
        return cls(client)

    def ping(self) -> None:
        """Raise Unavailable unless Qdrant answers."""
        with translated():
            self._client.info()

    # Collections

    def prepare(self, version: ModelRef, dimensions: int) -> bool:
        """Make the version's collection; False if it is there already."""
        name = _collection(version)
        with translated():
            if self._client.collection_exists(name):
                return False
            self._client.create_collection(
                name,
                vectors_config=qm.VectorParams(size=dimensions, distance=qm.Distance.COSINE),
                quantization_config=_QUANTIZED,
                strict_mode_config=_STRICT,
            )
            for field, schema in INDEXED.items():
                self._client.create_payload_index(name, field, schema, wait=True)
        return True

    def drop(self, version: ModelRef) -> None:
        """Remove the version's index, if there is one."""
        with translated():
            self._client.delete_collection(_collection(version))

    def publish(self, version: ModelRef) -> None:
        """Let searches see the version's collection."""
        create = qm.CreateAlias(collection_name=_collection(version), alias_name=alias_of(version))
        with translated():
            self._client.update_collection_aliases([qm.CreateAliasOperation(create_alias=create)])

    def mark_frames(self, version: ModelRef) -> None:
        """Note that the version's collection has all frames that were kept of the model before."""
        create = qm.CreateAlias(collection_name=_collection(version), alias_name=_frames_alias(version))
        with translated():
            self._client.update_collection_aliases([qm.CreateAliasOperation(create_alias=create)])

    def lacks_frames(self, version: ModelRef, before: ModelRef) -> bool:
        """Whether frames were kept by ``before`` that were never brought over to ``version``."""
        with translated():
            names = {alias.alias_name for alias in self._client.get_aliases().aliases}
        if _frames_alias(version) in names:
            return False
        return self.count(before, qm.Filter(must=[any_of("source", [CAMERA])])) > 0

    def is_published(self, version: ModelRef) -> bool:
        """Whether searches see an index of the version."""
        return version in self.published()

    def advance(self, production: ModelRef) -> bool:
        """Have the version in production answer for its model; False if its index is not complete yet.

        It is once it lacks no dataset that the one before has, and none of its kept frames.
        """
        if production not in self.published():
            return False
        before = self.serving_version(production.model)
        if before is not None and before != production:
            missing = set(self.datasets(before)) - set(self.datasets(production))
            if missing or self.lacks_frames(production, before):
                return False
        alias = _models_alias(production.model)
        change: list[qm.AliasOperations] = []
        if before is not None:
            change.append(qm.DeleteAliasOperation(delete_alias=qm.DeleteAlias(alias_name=alias)))
        made = qm.CreateAlias(collection_name=_collection(production), alias_name=alias)
        change.append(qm.CreateAliasOperation(create_alias=made))
        with translated():
            self._client.update_collection_aliases(change)  # in one step: no search falls between
        return True

    def serving(self, ref: ModelRef, version: ModelRef) -> ModelRef:
        """The version whose index answers for ``ref``, which means ``version`` now.

        A fixed version answers for itself; a model is answered for by the one before until the index of its
        new version lacks nothing.
        """
        if ref.version is not None:
            return version
        before = self.serving_version(version.model)
        return version if before in (None, version) or self.advance(version) else before

    def serving_version(self, model: str) -> ModelRef | None:
        """The version whose index answers for ``model``; None before there was one in production."""
        with translated():
            for alias in self._client.get_aliases().aliases:
                if alias.alias_name == _models_alias(model):
                    return _version(alias.collection_name)
        return None

    def published(self) -> list[ModelRef]:
        """The versions, of any model, whose indexes searches see."""
        with translated():
            aliases = self._client.get_aliases().aliases
        versions = {alias.alias_name: _version(alias.collection_name) for alias in aliases}
        return [version for name, version in versions.items() if version and name == alias_of(version)]

    def versions(self) -> list[ModelRef]:
        """The versions, of any model, that have an index, whether searches see it or not."""
        with translated():
            names = [each.name for each in self._client.get_collections().collections]
        return [version for version in map(_version, names) if version is not None]

    # Points

    def put(self, version: ModelRef, items: Sequence[Item], vectors: Vector, job: str = "") -> None:
        """Write items and their embeddings (len(items), dimensions); there already, they are replaced.

        What is known of an image beyond its pixels stays: its label, when and by which camera it was taken,
        and the ``job`` that brought it first, for ``discard``. Images new to this version take it from the
        index that answers for the model.

        Raises:
            NotFound: if the version's index is gone.
        """
        if not items:
            return
        if not np.isfinite(vectors).all():
            raise ValueError(f"{version} gave an embedding that is not finite; this is a bug")
        name, ids = _collection(version), [str(item.id) for item in items]
        new = dict(zip(ids, items, strict=True))
        with translated(), no_index(version):
            there = self._client.retrieve(name, ids, with_payload=[*KEPT, *ORIGIN, BROUGHT_BY])
            kept = {str(point.id): _kept(point.payload or {}, new[str(point.id)]) for point in there}
            kept |= self._inherited(version, [item for item in items if str(item.id) not in kept])
            points = [
                qm.PointStruct(
                    id=id,
                    vector=vector.tolist(),
                    payload=replace(item, model_version=str(version)).payload()
                    | {BROUGHT_BY: job}
                    | kept.get(id, {}),
                )
                for id, item, vector in zip(ids, items, vectors, strict=True)
            ]
            self._client.upsert(name, points, wait=True)

    def _inherited(self, version: ModelRef, new: Sequence[Item]) -> dict[str, dict[str, Any]]:
        """What the index that answers for the model knows of items, by their ids in this one."""
        before = self.serving_version(version.model) if new else None
        if before is None or before == version:
            return {}
        ids = {str(item_id(before, item.sha256)): str(item.id) for item in new}
        there = self._client.retrieve(_collection(before), list(ids), with_payload=list(KEPT))
        return {ids[str(point.id)]: point.payload or {} for point in there}

    def label(self, version: ModelRef, ids: Sequence[UUID], label: Label, label_class: str) -> None:
        """Write down what a person says of items.

        Raises:
            NotFound: if the version has no index.
        """
        points: list[Any] = [str(id) for id in ids]
        said = {"label": str(label), "label_class": label_class}
        known = {name: text for name, text in said.items() if text}
        empty = [name for name, text in said.items() if not text]
        with translated(), no_index(version):
            if known:
                self._client.set_payload(alias_of(version), known, points=points, wait=True)
            if empty:
                self._client.delete_payload(alias_of(version), empty, points=points, wait=True)

    def discard(self, version: ModelRef, job: str) -> None:
        """Take out the points that ``job`` brought; with the last one goes an index that nobody can see."""
        name = _collection(version)
        mine = qm.Filter(must=[any_of(BROUGHT_BY, [job])])
        with translated():
            if not self._client.collection_exists(name):
                return
            self._client.delete(name, qm.FilterSelector(filter=mine), wait=True)
            if not self._client.get_collection_aliases(name).aliases and not self._client.count(name).count:
                self._client.delete_collection(name)

    def remove(self, version: ModelRef, ids: Sequence[UUID]) -> None:
        """Take items out, as far as they are there."""
        with translated():
            if ids and self._client.collection_exists(_collection(version)):
                points = qm.PointIdsList(points=[str(id) for id in ids])
                self._client.delete(_collection(version), points, wait=True)

    def remove_dataset(self, version: ModelRef, dataset: str) -> None:
        """Take out all images of a dataset."""
        of_it = qm.Filter(must=[any_of("dataset", [dataset])])
        with translated():
            self._client.delete(_collection(version), qm.FilterSelector(filter=of_it), wait=True)

    def remove_images(self, version: ModelRef, dataset: str, images: Mapping[str, str]) -> None:
        """Take out images of a dataset, given as the sha256 of what is under each path.

        An item that stands for the same content elsewhere stays.
        """
        ids = [str(item_id(version, sha256)) for sha256 in images.values()]
        with translated():
            there = self._client.retrieve(_collection(version), ids, with_payload=["dataset", "path"])
        payloads = {UUID(str(point.id)): point.payload or {} for point in there}
        mine = [
            id
            for id, payload in payloads.items()
            if payload.get("dataset") == dataset and payload.get("path") in images
        ]
        self.remove(version, mine)

    # Reading

    def count(self, version: ModelRef, where: qm.Filter | None = None) -> int:
        """Points in the published index that fit.

        Raises:
            NotFound: if the version has none.
        """
        with translated(), no_index(version):
            return int(self._client.count(alias_of(version), count_filter=where, exact=True).count)

    def datasets(self, version: ModelRef) -> list[str]:
        """The datasets that have images in the published index.

        Raises:
            NotFound: if the version has none.
        """
        return list(self._values(version, "dataset", limit=10_000))

    def item(self, version: ModelRef, id: UUID) -> Item:
        """Read one item.

        Raises:
            NotFound: if the version has no index, or there is no such item.
        """
        with translated(), no_index(version):
            found = self._client.retrieve(alias_of(version), [str(id)], with_payload=True)
        if not found:
            raise NotFound(f"the index of {version} has no item {id}")
        return Item.read(found[0].id, found[0].payload or {})

    def items(
        self, version: ModelRef, where: qm.Filter | None, size: int, after: UUID | None = None
    ) -> tuple[list[Item], UUID | None]:
        """Items that fit, by id, at most ``size``; and where the next page begins, None at the end.

        Raises:
            NotFound: if the version has no index.
        """
        with translated(), no_index(version):
            page, following = self._client.scroll(
                alias_of(version),
                scroll_filter=where,
                limit=size,
                offset=str(after) if after else None,
                with_payload=True,
            )
        found = [Item.read(point.id, point.payload or {}) for point in page]
        return found, UUID(str(following)) if following is not None else None

    def oldest(self, version: ModelRef, where: qm.Filter, size: int) -> list[Item]:
        """Items that fit, the longest ago first, at most ``size``."""
        with translated(), no_index(version):
            page, _ = self._client.scroll(
                alias_of(version),
                scroll_filter=where,
                limit=size,
                order_by=qm.OrderBy(key="time", direction=qm.Direction.ASC),
                with_payload=True,
            )
        return [Item.read(point.id, point.payload or {}) for point in page]

    def labelled(self, version: ModelRef, label_class: str) -> tuple[list[UUID], list[UUID]]:
        """Examples of a defect, as people labelled them: those confirmed, and false alarms.

        Raises:
            NotFound: if the version has no index, or nothing in it is confirmed to be of the class.
        """
        confirmed = qm.Filter(
            must=[any_of("label", [Label.CONFIRMED]), any_of("label_class", [label_class])]
        )
        alarms = qm.Filter(must=[any_of("label", [Label.FALSE_ALARM])])
        like, _ = self.items(version, confirmed, _MOST_LABELLED)
        if not like:
            known = self._values(version, "label_class", _NAMED)
            raise NotFound(
                f"no item in the index of {version} is labelled as a confirmed {label_class!r}; there are: "
                + (", ".join(sorted(filter(None, known))) or "none; label some with `blemish label`")
            )
        unlike, _ = self.items(version, alarms, _MOST_LABELLED)
        return [item.id for item in like], [item.id for item in unlike]

    def dimensions(self, version: ModelRef) -> int:
        """Length of the published index's embeddings.

        Raises:
            NotFound: if the version has none.
        """
        with translated(), no_index(version):
            vectors = self._client.get_collection(alias_of(version)).config.params.vectors
        assert isinstance(vectors, qm.VectorParams)
        return int(vectors.size)

    def check_known(self, version: ModelRef, where: Filter) -> None:
        """Refuse a filter's value that no item has: silence would look like "nothing is similar".

        Raises:
            NotFound: naming it, and what there is.
        """
        for field, values in where.wanted().items():
            for value in values:
                if self.count(version, qm.Filter(must=[any_of(field, [value])])):
                    continue
                known = self._values(version, field, _NAMED)
                raise NotFound(
                    f"no image in the index of {version} has {field} {value!r}; there are: "
                    + ", ".join(sorted(known))
                )

    def _values(self, version: ModelRef, field: str, limit: int) -> Mapping[str, int]:
        """The values of a keyword and how many points have each."""
        with translated(), no_index(version):
            hits = self._client.facet(alias_of(version), field, limit=limit).hits
        return {str(hit.value): int(hit.count) for hit in hits}


def _kept(before: Mapping[str, Any], new: Item) -> dict[str, Any]:
    """What stays of a point's payload when its image is written again."""
    known = [*KEPT, BROUGHT_BY]
    if new.source == CAMERA and before.get("source") == DATASET:
        known += ORIGIN
    return {name: before[name] for name in known if name in before}


def _collection(version: ModelRef) -> str:
    return f"blemish.{version.model}.{version.version}"


def alias_of(version: ModelRef) -> str:
    """By which the version's collection is searched, once it is published."""
    return f"{_collection(version)}.published"


def _frames_alias(version: ModelRef) -> str:
    return f"{_collection(version)}.frames"


def _models_alias(model: str) -> str:
    return f"blemish.{model}.production"


def _version(collection: str) -> ModelRef | None:
    """The version whose collection that is; None if it is none of ours."""
    match = re.fullmatch(r"blemish\.(.+)\.(\d+)", collection)
    return ModelRef(match[1], int(match[2])) if match else None
