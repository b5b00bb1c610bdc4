# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant answers as the client's own in-memory Qdrant does, call by call."""

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
    from tests.contract.conftest import Both, EmbeddedQdrant

SIZE = 8
START = datetime(2026, 1, 1, tzinfo=UTC)
INDEXED = {"line": "keyword", "n": "integer", "score": "float", "ok": "bool", "at": "datetime"}

pytestmark = pytest.mark.filterwarnings(
    # The in-memory client says that it has no payload indexes; what it answers needs none.
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
    """Return the vector of the point ``number``."""
    values: list[float] = np.random.default_rng(number).standard_normal(SIZE).tolist()
    return values


def where(key: str, value: bool | int | str) -> qm.Filter:
    return qm.Filter(must=[qm.FieldCondition(key=key, match=qm.MatchValue(value=value))])


def create(client: QdrantClient) -> None:
    client.create_collection("c", vectors_config=qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE))
    for key, kind in INDEXED.items():
        client.create_payload_index("c", key, qm.PayloadSchemaType(kind))


@pytest.fixture
def filled(both: "Both") -> "Both":
    """Both with the same 40 points in a collection c."""
    both.do(create)
    both.do(lambda client: client.upsert("c", [point(number) for number in range(40)]))
    return both


def everything(client: QdrantClient) -> Any:
    return client.scroll("c", limit=100, with_payload=True, with_vectors=True)


def test_points_and_payloads_are_written_alike(filled: "Both") -> None:
    uuid = str(UUID(int=5))
    stays = qm.PointStruct(id=7, vector=vector(0), payload={"line": "not written"})
    steps: Sequence[Call] = (
        lambda c: c.upsert("c", [qm.PointStruct(id=uuid, vector=vector(7), payload={"line": "u"})]),
        lambda c: c.upsert("c", qm.Batch(ids=[100, 3], vectors=[[1.0] * SIZE] * 2)),
        lambda c: c.upsert("c", [stays], update_filter=where("line", "another")),
        lambda c: c.set_payload("c", {"seen": True}, points=[1, uuid]),
        lambda c: c.set_payload("c", {"x": 1}, points=where("line", "l1"), key="deep.more"),
        lambda c: c.set_payload("c", {"seen": 2}, points=where("ok", True)),
        lambda c: c.overwrite_payload("c", {"only": 1}, points=[4]),
        lambda c: c.overwrite_payload("c", {"only": 2}, points=where("n", 8)),
        lambda c: c.delete_payload("c", ["seen", "deep"], points=[1, 6]),
        lambda c: c.delete_payload("c", ["at"], points=where("line", "l0")),
        lambda c: c.clear_payload("c", [5]),
        lambda c: c.clear_payload("c", where("n", 11)),
        lambda c: c.update_vectors("c", [qm.PointVectors(id=9, vector=vector(7))]),
        lambda c: c.delete("c", [2, 12, 9999]),
        lambda c: c.delete("c", where("line", "l2")),
        lambda c: c.batch_update_points(
            "c",
            [
                qm.UpsertOperation(upsert=qm.PointsList(points=[point(500)])),
                qm.SetPayloadOperation(set_payload=qm.SetPayload(payload={"b": 1}, points=[500])),
                qm.DeletePayloadOperation(delete_payload=qm.DeletePayload(keys=["n"], points=[500])),
                qm.DeleteOperation(delete=qm.PointIdsList(points=[0])),
            ],
        ),
    )
    for number, step in enumerate(steps):
        filled.do(step)
        assert filled.same(everything), f"after step {number}"
    filled.same(lambda c: c.retrieve("c", [uuid, 7, 9999], with_payload=["line"], with_vectors=True))
    filled.same(lambda c: c.retrieve("c", [4, 500], with_payload=qm.PayloadSelectorExclude(exclude=["at"])))
    filled.same(lambda c: c.count("c").count)


def test_queries_agree(filled: "Both") -> None:
    query = np.random.default_rng(99).standard_normal(SIZE)
    calls: Sequence[Call] = (
        lambda c: c.query_points("c", query=query.tolist(), limit=5, with_payload=True),
        lambda c: c.query_points("c", query=query, limit=5, offset=3, with_vectors=True),
        lambda c: c.query_points("c", query=7, limit=5),
        lambda c: c.query_points("c", query=7, query_filter=where("line", "l1"), limit=50),
        lambda c: c.query_points("c", query=query.tolist(), score_threshold=0.3, limit=50),
        lambda c: c.query_points("c", query=query.tolist(), score_threshold=2.0),
        lambda c: c.query_points("c", query=[0.0] * SIZE, score_threshold=0.1),
        lambda c: c.query_batch_points(
            "c", [qm.QueryRequest(query=vector(number), limit=4) for number in range(3)]
        ),
    )
    for call in calls:
        filled.same(call)
    assert 7 not in [p.id for p in filled.embedded.query_points("c", query=7, limit=50).points]


def test_a_zero_vector_is_kept_and_scores_zero(filled: "Both") -> None:
    filled.do(lambda c: c.delete("c", qm.Filter()))
    filled.do(lambda c: c.upsert("c", [qm.PointStruct(id=1, vector=[0.0] * SIZE)]))
    ((_, _, _, stored),) = filled.same(everything)[0]
    assert stored == [0.0] * SIZE
    ((_, score, _, _),) = filled.same(lambda c: c.query_points("c", query=[1.0] * SIZE))
    assert score == 0


@pytest.mark.parametrize("distance", [qm.Distance.DOT, qm.Distance.EUCLID, qm.Distance.MANHATTAN])
def test_other_distances_and_named_vectors_agree(both: "Both", distance: qm.Distance) -> None:
    sizes = {"image": SIZE, "part": 3}
    vectors = {name: qm.VectorParams(size=size, distance=distance) for name, size in sizes.items()}
    both.do(lambda c: c.create_collection("named", vectors_config=vectors))
    points = [qm.PointStruct(id=n, vector={"image": vector(n), "part": [n * n, 1.0, -n]}) for n in range(9)]
    points.append(qm.PointStruct(id=9, vector={"part": [1.0, 2.0, 3.0]}))
    both.do(lambda c: c.upsert("named", points))
    query = vector(3)
    both.same(lambda c: c.query_points("named", query=query, using="image", with_vectors=["part"]))
    both.same(lambda c: c.query_points("named", query=3, using="part", limit=4, with_vectors=True))
    both.refuse(
        grpc.StatusCode.INVALID_ARGUMENT, lambda c: c.query_points("named", query=query, using="none")
    )


def test_pages_agree(filled: "Both") -> None:
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
        qm.OrderBy(key="n", direction=qm.Direction.ASC, start_from=12),
        qm.OrderBy(key="at", start_from=START + timedelta(hours=30)),
    ):
        page = filled.same(lambda c, order=order: c.scroll("c", limit=6, order_by=order))[0]  # type: ignore[misc]
        assert len(page) == 6


def test_facets_agree(filled: "Both") -> None:
    def facet(client: QdrantClient, key: str, among: qm.Filter | None = None) -> dict[Any, int]:
        return {hit.value: hit.count for hit in client.facet("c", key, among, 50, exact=True).hits}

    assert filled.same(lambda c: facet(c, "line")) == {"l0": 14, "l1": 13, "l2": 13}
    assert filled.same(lambda c: facet(c, "ok")) == {True: 20, False: 20}
    assert filled.same(lambda c: facet(c, "line", where("ok", True))) == {"l0": 7, "l1": 6, "l2": 7}


def test_aliases_agree(filled: "Both") -> None:
    def aliases(client: QdrantClient) -> list[tuple[str, str]]:
        return sorted((a.alias_name, a.collection_name) for a in client.get_aliases().aliases)

    def change(*actions: Any) -> Call:
        return lambda client: client.update_collection_aliases(list(actions))

    def made(alias: str, collection: str = "c") -> qm.CreateAliasOperation:
        return qm.CreateAliasOperation(
            create_alias=qm.CreateAlias(alias_name=alias, collection_name=collection)
        )

    def renamed(old: str, new: str) -> qm.RenameAliasOperation:
        return qm.RenameAliasOperation(rename_alias=qm.RenameAlias(old_alias_name=old, new_alias_name=new))

    gone = qm.DeleteAliasOperation(delete_alias=qm.DeleteAlias(alias_name="c.old"))
    missing, exists = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
    filled.do(lambda c: c.create_collection("d", qm.VectorParams(size=2, distance=qm.Distance.DOT)))
    filled.do(change(made("c.new"), made("c.old"), made("mine")))
    filled.do(change(gone, renamed("c.new", "c.old")))
    assert filled.same(aliases) == [["c.old", "c"], ["mine", "c"]]
    # All or nothing: the first action of each would have worked.
    filled.refuse(missing, change(made("x"), made("y", "none")))
    filled.refuse(missing, change(made("x"), renamed("none", "y")))
    filled.refuse(missing, change(made("x"), made("y", "mine")))
    filled.refuse(exists, change(made("x"), made("d")))
    filled.refuse(exists, change(made("x"), renamed("mine", "d")))
    filled.refuse(
        exists, lambda c: c.create_collection("mine", qm.VectorParams(size=2, distance=qm.Distance.DOT))
    )
    assert filled.same(aliases) == [["c.old", "c"], ["mine", "c"]]

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


def test_a_collection_is_described_as_it_is(filled: "Both") -> None:
    info = filled.embedded.get_collection("c")
    assert info.points_count == 40
    assert {key: field.data_type.value for key, field in info.payload_schema.items()} == INDEXED
    params = info.config.params.vectors
    assert isinstance(params, qm.VectorParams)
    assert (params.size, params.distance) == (SIZE, qm.Distance.COSINE)
    filled.embedded.delete_payload_index("c", "line")
    assert "line" not in filled.embedded.get_collection("c").payload_schema


async def test_the_asyncio_client_works(embedded: QdrantClient, embedded_qdrant: "EmbeddedQdrant") -> None:
    create(embedded)
    client = AsyncQdrantClient(**embedded_qdrant.to_connect())
    try:
        await client.upsert("c", [point(number) for number in range(10)])
        found = await client.query_points("c", query=vector(3), limit=1)
        assert [each.id for each in found.points] == [3]
        assert (await client.count("c")).count == 10
        assert await client.collection_exists("c")
        assert len((await client.scroll("c", limit=4))[0]) == 4
    finally:
        await client.close()
