# SPDX-License-Identifier: Apache-2.0
"""Agreement of the embedded and the in-memory Qdrant, call by call."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client import models as qm

if TYPE_CHECKING:
    from tests.contract.conftest import EmbeddedQdrant, QdrantPair

SIZE = 8
START = datetime(2026, 1, 1, tzinfo=UTC)
INDEXED = {"line": "keyword", "n": "integer", "score": "float", "ok": "bool", "at": "datetime"}

pytestmark = pytest.mark.filterwarnings(
    # The in-memory client warns that it has no payload indexes; its results need none.
    "ignore:Payload indexes have no effect in the local Qdrant:UserWarning"
)

Call = Callable[[QdrantClient], Any]


def point(number: int) -> qm.PointStruct:
    payload: dict[str, Any] = {
        "line": f"l{number % 3}",
        "n": number,
        "score": number / 40,
        "ok": number % 2 == 0,
        "at": (START + timedelta(hours=number)).isoformat(),
        "deep": {"list": [1, "x", None, 2.5, {"y": True}], "empty": {}},
        "big": 2**53 + number,
    }
    return qm.PointStruct(id=number, vector=vector(number), payload=payload)


def vector(number: int) -> list[float]:
    """Return the vector of a point."""
    values: list[float] = np.random.default_rng(number).standard_normal(SIZE).tolist()
    return values


def where(key: str, value: bool | int | str) -> qm.Filter:
    return qm.Filter(must=[qm.FieldCondition(key=key, match=qm.MatchValue(value=value))])


def create(client: QdrantClient) -> None:
    client.create_collection("c", vectors_config=qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE))
    for key, kind in INDEXED.items():
        client.create_payload_index("c", key, qm.PayloadSchemaType(kind))


@pytest.fixture
def filled(empty_pair: "QdrantPair") -> "QdrantPair":
    """Both with the same 40 points in a collection c."""
    empty_pair.do(create)
    empty_pair.do(lambda client: client.upsert("c", [point(number) for number in range(40)]))
    return empty_pair


def all_points(client: QdrantClient) -> Any:
    return client.scroll("c", limit=100, with_payload=True, with_vectors=True)


def test_writes_agree(filled: "QdrantPair") -> None:
    uuid = str(UUID(int=5))
    steps: Sequence[Call] = (
        lambda c: c.upsert("c", [qm.PointStruct(id=uuid, vector=vector(7), payload={"line": "u"})]),
        lambda c: c.upsert("c", qm.Batch(ids=[100, 3], vectors=[[1.0] * SIZE] * 2)),
        lambda c: c.set_payload("c", {"seen": True}, points=[1, uuid]),
        lambda c: c.set_payload("c", {"seen": 2}, points=where("ok", True)),
        lambda c: c.delete_payload("c", ["seen", "deep"], points=[1, 6]),
        lambda c: c.delete_payload("c", ["at"], points=where("line", "l0")),
        lambda c: c.delete("c", [2, 12, 9999]),
        lambda c: c.delete("c", where("line", "l2")),
    )
    for number, step in enumerate(steps):
        filled.do(step)
        assert filled.same(all_points), f"after step {number}"
    filled.same(lambda c: c.retrieve("c", [uuid, 7, 9999], with_payload=["line"], with_vectors=True))
    filled.same(lambda c: c.count("c").count)


def test_queries_agree(filled: "QdrantPair") -> None:
    query = np.random.default_rng(99).standard_normal(SIZE)
    calls: Sequence[Call] = (
        lambda c: c.query_points("c", query=query.tolist(), limit=5, with_payload=True),
        lambda c: c.query_points("c", query=query, limit=5, offset=3, with_vectors=True),
        lambda c: c.query_points("c", query=7, limit=5),
        lambda c: c.query_points("c", query=7, query_filter=where("line", "l1"), limit=50),
    )
    for call in calls:
        filled.same(call)
    assert 7 not in [p.id for p in filled.tested.query_points("c", query=7, limit=50).points]


def test_zero_vector_is_kept_and_scores_zero(filled: "QdrantPair") -> None:
    filled.do(lambda c: c.delete("c", qm.Filter()))
    filled.do(lambda c: c.upsert("c", [qm.PointStruct(id=1, vector=[0.0] * SIZE)]))
    ((_, _, _, stored),) = filled.same(all_points)[0]
    assert stored == [0.0] * SIZE
    ((_, score, _, _),) = filled.same(lambda c: c.query_points("c", query=[1.0] * SIZE))
    assert score == 0


def test_pages_agree(filled: "QdrantPair") -> None:
    seen: list[int] = []
    offset: Any = None
    while True:
        after = offset
        page, offset = filled.same(lambda c, after=after: c.scroll("c", limit=7, offset=after))  # type: ignore[misc]
        seen += [each[0] for each in page]
        if offset is None:
            break
    assert seen == list(range(40))
    for order in (
        qm.OrderBy(key="score", direction=qm.Direction.DESC),
        qm.OrderBy(key="n", direction=qm.Direction.ASC),
        qm.OrderBy(key="at"),
    ):
        page = filled.same(lambda c, order=order: c.scroll("c", limit=6, order_by=order))[0]  # type: ignore[misc]
        assert len(page) == 6


def test_facets_agree(filled: "QdrantPair") -> None:
    def facet(client: QdrantClient, key: str, among: qm.Filter | None = None) -> dict[Any, int]:
        return {hit.value: hit.count for hit in client.facet("c", key, among, 50, exact=True).hits}

    assert filled.same(lambda c: facet(c, "line")) == {"l0": 14, "l1": 13, "l2": 13}
    assert filled.same(lambda c: facet(c, "ok")) == {True: 20, False: 20}
    assert filled.same(lambda c: facet(c, "line", where("ok", True))) == {"l0": 7, "l1": 6, "l2": 7}


def test_aliases_agree(filled: "QdrantPair") -> None:
    def aliases(client: QdrantClient) -> list[tuple[str, str]]:
        return sorted((a.alias_name, a.collection_name) for a in client.get_aliases().aliases)

    def change(*actions: Any) -> Call:
        return lambda client: client.update_collection_aliases(list(actions))

    def made(alias: str, collection: str = "c") -> qm.CreateAliasOperation:
        return qm.CreateAliasOperation(
            create_alias=qm.CreateAlias(alias_name=alias, collection_name=collection)
        )

    gone = qm.DeleteAliasOperation(delete_alias=qm.DeleteAlias(alias_name="c.old"))
    missing, exists = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
    filled.do(lambda c: c.create_collection("d", qm.VectorParams(size=2, distance=qm.Distance.DOT)))
    filled.do(change(made("c.new"), made("c.old"), made("mine")))
    filled.do(change(gone))
    assert filled.same(aliases) == [["c.new", "c"], ["mine", "c"]]
    # Actions are atomic: the first one of each request is valid.
    filled.both_reject(missing, change(made("x"), made("y", "none")))
    filled.both_reject(missing, change(made("x"), made("y", "mine")))
    filled.both_reject(exists, change(made("x"), made("d")))
    filled.both_reject(
        exists, lambda c: c.create_collection("mine", qm.VectorParams(size=2, distance=qm.Distance.DOT))
    )
    assert filled.same(aliases) == [["c.new", "c"], ["mine", "c"]]

    filled.do(lambda c: c.upsert("mine", [point(77)]))
    filled.do(lambda c: c.delete("mine", [0]))
    filled.same(lambda c: c.query_points("mine", query=vector(77), limit=3))
    filled.same(lambda c: c.scroll("mine", limit=100))
    assert filled.same(lambda c: c.collection_exists("mine")) is True
    assert filled.same(lambda c: c.get_collection("mine").points_count) == 40
    filled.do(change(made("mine", "d")))
    assert filled.same(lambda c: c.count("mine").count) == 0
    assert filled.same(lambda c: c.delete_collection("mine")) is False
    assert filled.same(lambda c: c.delete_collection("c")) is True
    assert filled.same(aliases) == [["mine", "d"]]
    assert filled.same(lambda c: len(c.get_collection_aliases("d").aliases)) == 1


def test_collection_is_described_with_its_indexes(filled: "QdrantPair") -> None:
    info = filled.tested.get_collection("c")
    assert info.points_count == 40
    assert {key: field.data_type.value for key, field in info.payload_schema.items()} == INDEXED
    params = info.config.params.vectors
    assert isinstance(params, qm.VectorParams)
    assert (params.size, params.distance) == (SIZE, qm.Distance.COSINE)


async def test_asyncio_client_works(embedded: QdrantClient, embedded_qdrant: "EmbeddedQdrant") -> None:
    create(embedded)
    client = AsyncQdrantClient(**embedded_qdrant.client_options())
    try:
        await client.upsert("c", [point(number) for number in range(10)])
        found = await client.query_points("c", query=vector(3), limit=1)
        assert [each.id for each in found.points] == [3]
        assert (await client.count("c")).count == 10
        assert await client.collection_exists("c")
        assert len((await client.scroll("c", limit=4))[0]) == 4
    finally:
        await client.close()
