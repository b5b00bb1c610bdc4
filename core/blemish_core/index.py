# SPDX-License-Identifier: Apache-2.0
"""The embeddings of a model version's images in Qdrant: one collection a version.

A collection is searched through an alias that the first complete embed job sets, so nobody sees a half-made
index. A point's id follows from the model version and the image's content: the same image again is the same
point.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from grpc import RpcError, StatusCode
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import models as qm
from qdrant_client.common.client_exceptions import QdrantException

from blemish_core.errors import NotFound, Unavailable
from blemish_core.names import ModelRef

_TIMEOUT_S = 10
_PAGE = 64
_NAMED = 20  # values listed in a refusal
_INDEXED = {
    "dataset": qm.PayloadSchemaType.KEYWORD,
    "category": qm.PayloadSchemaType.KEYWORD,
    "class_name": qm.PayloadSchemaType.KEYWORD,
    "anomalous": qm.PayloadSchemaType.BOOL,
    "score": qm.PayloadSchemaType.FLOAT,
}
"""Created with the collection: an index made after the load is not used by HNSW (qdrant#6937)."""
_BROUGHT_BY = "brought_by"


@dataclass(frozen=True)
class Item:
    """An indexed image."""

    id: UUID
    dataset: str
    category: str
    path: str
    """In the dataset: test/crack/003.png."""
    class_name: str
    sha256: str
    score: float
    p_value: float
    anomalous: bool


@dataclass(frozen=True)
class Similar:
    item: Item
    similarity: float
    """Cosine, -1 to 1."""


@dataclass(frozen=True)
class Filter:
    """An item must fit each list that is not empty, by being one of its values."""

    datasets: Sequence[str] = ()
    categories: Sequence[str] = ()
    classes: Sequence[str] = ()


def item_id(version: ModelRef, sha256: str) -> UUID:
    """The id of an image's point in the index of ``version``."""
    return uuid5(NAMESPACE_URL, f"blemish:{version}:{sha256}")


class SearchIndex:
    """Reads and writes the indexes of all model versions. Safe to share between threads."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, grpc_port: int) -> "SearchIndex":
        """Prepare a connection; nothing is sent before the first call."""
        parts = urlsplit(url)
        client = QdrantClient(
            url=url,
            port=parts.port or 6333,
            grpc_port=grpc_port,
            prefer_grpc=True,
            timeout=_TIMEOUT_S,
            check_compatibility=False,  # would probe over REST, which the embedded one has not
            grpc_options={
                "grpc.max_receive_message_length": 64 << 20,
                # Find a Qdrant that comes back within a second, not within two minutes.
                "grpc.max_reconnect_backoff_ms": 1000,
            },
        )
        return cls(client)

    def ping(self) -> None:
        """Raise Unavailable unless Qdrant answers."""
        with _translated():
            self._client.info()

    def prepare(self, version: ModelRef, dimensions: int) -> None:
        """Make the version's collection if it is not there."""
        name = _collection(version)
        with _translated():
            if self._client.collection_exists(name):
                return
            self._client.create_collection(
                name,
                vectors_config=qm.VectorParams(size=dimensions, distance=qm.Distance.COSINE),
            )
            for field, schema in _INDEXED.items():
                self._client.create_payload_index(name, field, schema, wait=True)

    def put(
        self, version: ModelRef, items: Sequence[Item], vectors: NDArray[np.float32], job: str = ""
    ) -> None:
        """Write items and their embeddings (len(items), dimensions); there already, they are replaced.

        Each point keeps the name of the ``job`` that brought it first, for ``discard``.
        """
        if not items:
            return
        if not np.isfinite(vectors).all():
            raise ValueError(f"{version} gave an embedding that is not finite; this is a bug")
        name, ids = _collection(version), [str(item.id) for item in items]
        with _translated():
            there = self._client.retrieve(name, ids, with_payload=[_BROUGHT_BY])
            brought = {str(point.id): (point.payload or {}).get(_BROUGHT_BY, "") for point in there}
            points = [
                qm.PointStruct(
                    id=id,
                    vector=vector.tolist(),
                    payload=_payload(item) | {_BROUGHT_BY: brought.get(id, job)},
                )
                for id, item, vector in zip(ids, items, vectors, strict=True)
            ]
            self._client.upsert(name, points, wait=True)

    def discard(self, version: ModelRef, job: str) -> None:
        """Take out the points that ``job`` brought; with the last one goes an index that nobody can see."""
        name = _collection(version)
        mine = qm.Filter(must=[qm.FieldCondition(key=_BROUGHT_BY, match=qm.MatchValue(value=job))])
        with _translated():
            if not self._client.collection_exists(name):
                return
            self._client.delete(name, qm.FilterSelector(filter=mine), wait=True)
            if not self._client.get_collection_aliases(name).aliases and not self._client.count(name).count:
                self._client.delete_collection(name)

    def drop(self, version: ModelRef) -> None:
        """Remove the version's index, if there is one."""
        with _translated():
            self._client.delete_collection(_collection(version))

    def publish(self, version: ModelRef) -> None:
        """Let searches see the version's collection."""
        create = qm.CreateAlias(collection_name=_collection(version), alias_name=_alias(version))
        with _translated():
            self._client.update_collection_aliases([qm.CreateAliasOperation(create_alias=create)])

    def count(self, version: ModelRef) -> int:
        """Points in the published index.

        Raises:
            NotFound: if the version has none.
        """
        with _translated(), _no_index(version):
            return int(self._client.count(_alias(version), exact=True).count)

    def search(
        self, version: ModelRef, query: NDArray[np.float32] | UUID, limit: int, where: Filter
    ) -> Iterator[Similar]:
        """Yield the ``limit`` items most similar to an embedding or a stored item, best first.

        A stored item is not among its own hits.

        Raises:
            NotFound: if the version has no index, there is no such item, or nothing in the index has a
                value that the filter names.
            Unavailable: if Qdrant does not answer.
        """
        self._check_known(version, where)
        vector: list[float] | str = str(query) if isinstance(query, UUID) else query.tolist()
        if isinstance(query, UUID):
            self.item(version, query)
        for offset in range(0, limit, _PAGE):
            with _translated(), _no_index(version):
                page = self._client.query_points(
                    _alias(version),
                    query=vector,
                    query_filter=_filter(where),
                    limit=min(_PAGE, limit - offset),
                    offset=offset,
                    with_payload=True,
                ).points
            for point in page:
                yield Similar(_item(point.id, point.payload or {}), point.score)
            if len(page) < _PAGE:
                return

    def _check_known(self, version: ModelRef, where: Filter) -> None:
        """Raise NotFound for a value that no item has: silence would look like "nothing is similar"."""
        for field, values in _wanted(where).items():
            for value in values:
                with _translated(), _no_index(version):
                    only = qm.Filter(must=[_any_of(field, [value])])
                    if self._client.count(_alias(version), count_filter=only, exact=True).count:
                        continue
                    known = self._client.facet(_alias(version), field, limit=_NAMED).hits
                raise NotFound(
                    f"no image in the index of {version} has {field} {value!r}; there are: "
                    + ", ".join(sorted(str(hit.value) for hit in known))
                )

    def item(self, version: ModelRef, id: UUID) -> Item:
        """Read one item.

        Raises:
            NotFound: if the version has no index, or there is no such item.
        """
        with _translated(), _no_index(version):
            found = self._client.retrieve(_alias(version), [str(id)], with_payload=True)
        if not found:
            raise NotFound(f"the index of {version} has no item {id}")
        return _item(found[0].id, found[0].payload or {})


def _collection(version: ModelRef) -> str:
    return f"blemish.{version.model}.{version.version}"


def _alias(version: ModelRef) -> str:
    return f"{_collection(version)}.published"


def _payload(item: Item) -> dict[str, object]:
    return {name: value for name, value in vars(item).items() if name != "id"}


def _item(id: object, payload: dict[str, object]) -> Item:
    known = {name: payload[name] for name in Item.__dataclass_fields__ if name != "id"}
    return Item(id=UUID(str(id)), **known)  # type: ignore[arg-type]  # as _payload wrote them


def _filter(where: Filter) -> qm.Filter | None:
    must: list[qm.Condition] = [_any_of(field, values) for field, values in _wanted(where).items()]
    return qm.Filter(must=must) if must else None


def _any_of(field: str, values: Sequence[str]) -> qm.FieldCondition:
    return qm.FieldCondition(key=field, match=qm.MatchAny(any=list(values)))


def _wanted(where: Filter) -> dict[str, Sequence[str]]:
    """The fields that ``where`` restricts, and to what."""
    fields = {"dataset": where.datasets, "category": where.categories, "class_name": where.classes}
    return {field: values for field, values in fields.items() if values}


@contextmanager
def _no_index(version: ModelRef) -> Iterator[None]:
    try:
        yield
    except RpcError as error:
        if _code(error) is StatusCode.NOT_FOUND:
            raise NotFound(
                f"{version} has no index yet; make one with "
                f"`blemish index {version.model}/{version.version} DATASET`"
            ) from error
        raise
    except ValueError as error:  # the in-memory client's way to say it
        if "not found" in str(error):
            raise NotFound(f"{version} has no index yet") from error
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """Qdrant's silence becomes Unavailable; what it objects to is our bug and stays as it is."""
    try:
        yield
    except RpcError as error:
        if _code(error) in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            raise Unavailable(
                "Qdrant does not answer: search and indexing wait until it is back; check QDRANT_URL "
                "and QDRANT_GRPC_PORT",
                dependency="qdrant",
            ) from error
        raise
    except QdrantException as error:
        raise Unavailable(f"Qdrant refuses: {error}", dependency="qdrant") from error


def _code(error: RpcError) -> StatusCode | None:
    code = getattr(error, "code", None)
    return code() if code else None
