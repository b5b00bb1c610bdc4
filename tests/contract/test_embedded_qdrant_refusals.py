# SPDX-License-Identifier: Apache-2.0
"""What the embedded Qdrant does not do it refuses, whole, with a status and a sentence."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import grpc as pb
from qdrant_client import models as qm

if TYPE_CHECKING:
    from tests.contract.conftest import Both

SIZE = 8
Call = Callable[[QdrantClient], Any]


@pytest.fixture(autouse=True)
def collection(both: "Both") -> None:
    """A collection c with ten points, the same in both."""
    params = qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE)
    both.do(lambda c: c.create_collection("c", vectors_config=params))
    both.do(lambda c: c.upsert("c", [point(number) for number in range(10)]))


def point(number: int) -> qm.PointStruct:
    vector = [1.0, float(number), *[0.5] * (SIZE - 2)]
    return qm.PointStruct(id=number, vector=vector, payload={"line": "a", "deep": {"n": number}})


def everything(client: QdrantClient) -> Any:
    return client.scroll("c", limit=100, with_payload=True, with_vectors=True)


def where(key: str, value: int) -> qm.Filter:
    return qm.Filter(must=[qm.FieldCondition(key=key, match=qm.MatchValue(value=value))])


def test_what_is_wrong_is_refused_with_the_reason(both: "Both") -> None:
    bad, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    ones = [1.0] * SIZE
    nan, infinity = float("nan"), float("inf")

    def put(vector: Any = ones, id: Any = 1) -> Call:
        return lambda c: c.upsert("c", [point(50), qm.PointStruct(id=id, vector=vector)])

    def make(name: str, size: int = 4) -> Call:
        params = qm.VectorParams(size=size, distance=qm.Distance.DOT)
        return lambda c: c.create_collection(name, params)

    assert "'nope'" in both.refuse(missing, lambda c: c.count("nope"))
    both.refuse(missing, lambda c: c.upsert("nope", [point(1)]))
    both.refuse(grpc.StatusCode.ALREADY_EXISTS, make("c"))
    assert "3 values" in both.refuse(bad, put(ones[:3]))
    assert "'zz'" in both.refuse(bad, put(id="zz"))
    both.refuse(bad, lambda c: c.query_points("c", query=[1.0, 2.0]))
    both.refuse(missing, lambda c: c.query_points("c", query=12345))
    for call in (
        put([nan, *ones[1:]]),
        put([infinity, *ones[1:]]),
        put({"other": ones}),
        put([ones, ones]),
        put([[]]),
        put({"": qm.SparseVector(indices=[1], values=[1.0])}),
        lambda c: c.query_points("c", query=[nan, *ones[1:]]),
        lambda c: c.query_points("c", query=ones, limit=0),
        lambda c: c.scroll("c", limit=0),
        lambda c: c.facet("c", "line", limit=0),
        lambda c: c.facet("c", "deep"),
        lambda c: c.scroll("c", order_by="deep"),
        lambda c: c.count("c", where("a[", 1)),
        lambda c: c.set_payload("c", {"x": nan}, points=[1]),
        make("../outside"),
        make(".."),
        make(""),
        make("huge", 2**31),
        make("empty", 0),
    ):
        assert len(both.refused(bad, call)) > 20
    # Nothing of them was done: not even point 50, which was right.
    assert both.same(everything)
    assert both.same(lambda c: [each.name for each in c.get_collections().collections]) == ["c"]


def test_what_only_a_real_qdrant_has_is_named(both: "Both") -> None:
    ones = [1.0] * SIZE
    geo = qm.GeoRadius(center=qm.GeoPoint(lon=1, lat=1), radius=1)
    near = qm.Filter(must=[qm.FieldCondition(key="where", geo_radius=geo)])
    sparse = {"s": qm.SparseVectorParams()}
    diverse = qm.NearestQuery(nearest=ones, mmr=qm.Mmr())
    unenforced = qm.StrictModeConfig(enabled=True, max_points_count=5)
    ones_of = qm.VectorParams(size=SIZE, distance=qm.Distance.DOT)
    for call in (
        lambda c: c.query_points_groups("c", group_by="line", query=ones, with_lookup="c"),
        lambda c: c.query_points_groups("c", group_by="line", query=diverse),
        lambda c: c.query_points_groups("c", group_by="line", prefetch=qm.Prefetch(query=ones), query=ones),
        lambda c: c.query_points("c", prefetch=qm.Prefetch(query=ones), query=ones),
        lambda c: c.query_points("c", query=qm.FusionQuery(fusion=qm.Fusion.RRF)),
        lambda c: c.update_collection("c", sparse_vectors_config=sparse),
        lambda c: c.update_collection("c", strict_mode_config=unenforced),
        lambda c: c.create_collection("s", ones_of, strict_mode_config=unenforced),
        lambda c: c.count("c", near),
        lambda c: c.create_collection("s", sparse_vectors_config=sparse),
    ):
        assert "QDRANT_URL" in both.refused(grpc.StatusCode.UNIMPLEMENTED, call)
    both.refused(
        grpc.StatusCode.UNIMPLEMENTED,
        lambda c: c.grpc_points.DeleteVectors(pb.DeletePointVectors(collection_name="c")),
    )


def test_a_message_beyond_the_limit_is_refused(both: "Both") -> None:
    large = {"text": "x" * (65 << 20)}
    both.refused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        lambda c: c.set_payload("c", large, points=[1]),
    )
    assert both.same(everything)
