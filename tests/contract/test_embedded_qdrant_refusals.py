# SPDX-License-Identifier: Apache-2.0
"""Requests that the embedded Qdrant rejects as a whole, with a status and a sentence."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import grpc as pb
from qdrant_client import models as qm

if TYPE_CHECKING:
    from tests.contract.conftest import QdrantPair

SIZE = 8
ONES = [1.0] * SIZE
BAD, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
Call = Callable[[QdrantClient], Any]


@pytest.fixture(autouse=True)
def collection(empty_pair: "QdrantPair") -> None:
    """Create a collection c with the same ten points in both."""
    params = qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE)
    empty_pair.do(lambda c: c.create_collection("c", vectors_config=params))
    empty_pair.do(lambda c: c.upsert("c", [point(number) for number in range(10)]))


def point(number: int) -> qm.PointStruct:
    vector = [1.0, float(number), *[0.5] * (SIZE - 2)]
    return qm.PointStruct(id=number, vector=vector, payload={"line": "a", "deep": {"n": number}})


def all_points(client: QdrantClient) -> Any:
    return client.scroll("c", limit=100, with_payload=True, with_vectors=True)


def where(key: str, value: int) -> qm.Filter:
    return qm.Filter(must=[qm.FieldCondition(key=key, match=qm.MatchValue(value=value))])


def put(vector: Any = ONES, id: Any = 1) -> Call:
    return lambda c: c.upsert("c", [point(50), qm.PointStruct(id=id, vector=vector)])


def create(name: str, size: int = 4) -> Call:
    params = qm.VectorParams(size=size, distance=qm.Distance.DOT)
    return lambda c: c.create_collection(name, params)


def test_invalid_request_is_rejected_with_the_reason(empty_pair: "QdrantPair") -> None:
    pair, nan = empty_pair, float("nan")
    assert "'nope'" in pair.both_reject(MISSING, lambda c: c.count("nope"))
    pair.both_reject(MISSING, lambda c: c.upsert("nope", [point(1)]))
    pair.both_reject(grpc.StatusCode.ALREADY_EXISTS, create("c"))
    assert "3 values" in pair.both_reject(BAD, put(ONES[:3]))
    assert "'zz'" in pair.both_reject(BAD, put(id="zz"))
    pair.both_reject(BAD, lambda c: c.query_points("c", query=[1.0, 2.0]))
    pair.both_reject(MISSING, lambda c: c.query_points("c", query=12345))
    for call in (
        put([nan, *ONES[1:]]),
        put([float("inf"), *ONES[1:]]),
        lambda c: c.query_points("c", query=[nan, *ONES[1:]]),
        lambda c: c.query_points("c", query=ONES, limit=0),
        lambda c: c.scroll("c", limit=0),
        lambda c: c.facet("c", "line", limit=0),
        lambda c: c.facet("c", "deep"),
        lambda c: c.scroll("c", order_by="deep"),
        lambda c: c.count("c", where("a[", 1)),
        lambda c: c.set_payload("c", {"x": nan}, points=[1]),
        create("../outside"),
        create(".."),
        create(""),
        create("huge", 2**31),
        create("empty", 0),
    ):
        assert len(pair.tested_rejects(BAD, call)) > 20
    # No rejected request was carried out in part: point 50 of `put` was valid.
    assert len(pair.same(all_points)[0]) == 10
    assert pair.same(lambda c: [each.name for each in c.get_collections().collections]) == ["c"]


def test_unsupported_request_is_rejected_with_a_remedy(empty_pair: "QdrantPair") -> None:
    geo = qm.GeoRadius(center=qm.GeoPoint(lon=1, lat=1), radius=1)
    near = qm.Filter(must=[qm.FieldCondition(key="where", geo_radius=geo)])
    sparse = {"s": qm.SparseVectorParams()}
    params = qm.VectorParams(size=SIZE, distance=qm.Distance.DOT)
    diverse = qm.NearestQuery(nearest=ONES, mmr=qm.Mmr())
    best = qm.RecommendInput(positive=[1], strategy=qm.RecommendStrategy.BEST_SCORE)
    for call in (
        put({"other": ONES}),
        put([ONES, ONES]),
        put({"": qm.SparseVector(indices=[1], values=[1.0])}),
        lambda c: c.upsert("c", [point(1)], update_filter=where("n", 1)),
        lambda c: c.set_payload("c", {"x": 1}, points=[1], key="deep"),
        lambda c: c.update_vectors("c", [qm.PointVectors(id=1, vector=ONES)]),
        lambda c: c.overwrite_payload("c", {"x": 1}, points=[1]),
        lambda c: c.clear_payload("c", [1]),
        lambda c: c.batch_update_points("c", [qm.DeleteOperation(delete=qm.PointIdsList(points=[1]))]),
        lambda c: c.query_batch_points("c", [qm.QueryRequest(query=ONES)]),
        lambda c: c.query_points_groups("c", group_by="line", query=ONES, with_lookup="c"),
        lambda c: c.query_points_groups("c", group_by="line", query=diverse),
        lambda c: c.query_points("c", prefetch=qm.Prefetch(query=ONES), query=ONES),
        lambda c: c.query_points("c", query=qm.FusionQuery(fusion=qm.Fusion.RRF)),
        lambda c: c.query_points("c", query=qm.RecommendQuery(recommend=best)),
        lambda c: c.query_points("c", query=ONES, score_threshold=0.5),
        lambda c: c.query_points("c", query=ONES, using="other"),
        lambda c: c.scroll("c", order_by=qm.OrderBy(key="n", start_from=1)),
        lambda c: c.retrieve("c", [1], with_payload=qm.PayloadSelectorExclude(exclude=["n"])),
        lambda c: c.retrieve("c", [1], with_vectors=["other"]),
        lambda c: c.count("c", near),
        lambda c: c.create_collection("s", sparse_vectors_config=sparse, vectors_config=params),
        lambda c: c.create_collection("s", vectors_config={"image": params}),
        lambda c: c.create_payload_index("c", "line", qm.KeywordIndexParams(type="keyword")),
        lambda c: c.update_collection("c", metadata={"a": 1}),
        lambda c: c.delete_payload_index("c", "line"),
        lambda c: c.grpc_points.DeleteVectors(pb.DeletePointVectors(collection_name="c")),
    ):
        assert "QDRANT_URL" in empty_pair.tested_rejects(grpc.StatusCode.UNIMPLEMENTED, call)
    assert len(empty_pair.same(all_points)[0]) == 10


def test_message_above_the_size_limit_is_rejected(empty_pair: "QdrantPair") -> None:
    large = {"text": "x" * (65 << 20)}
    empty_pair.tested_rejects(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        lambda c: c.set_payload("c", large, points=[1]),
    )
    assert len(empty_pair.same(all_points)[0]) == 10
