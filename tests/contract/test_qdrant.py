# SPDX-License-Identifier: Apache-2.0
"""The calls of blemish to Qdrant, made to the embedded one and to the server at QDRANT_URL.

Hits and scores are compared with those of the client's in-memory Qdrant on random data; the seed is
printed.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qm
from qdrant_client.local.distances import calculate_distance_core

if TYPE_CHECKING:
    from tests.contract.conftest import QdrantPair

SIZE, POINTS = 8, 200
START = datetime(2026, 1, 1, tzinfo=UTC)
INDEXED = {
    "line": "keyword",
    "tags": "keyword",
    "n": "integer",
    "ok": "bool",
    "score": "float",
    "at": "datetime",
}
BAD, MISSING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
)

pytestmark = [
    # The in-memory client compares all points and warns about what that makes unnecessary.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

Call = Callable[[QdrantClient], Any]


class PointSampler:
    """A source of random vectors and payloads."""

    def __init__(self) -> None:
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")
        self._values = np.random.default_rng(seed)
        self.pick = random.Random(seed)

    def vector(self) -> list[float]:
        values: list[float] = self._values.standard_normal(SIZE, np.float32).tolist()
        return values

    def payload(self, number: int) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "line": f"l{self.pick.randrange(9)}",
            "tags": [f"t{self.pick.randrange(6)}" for _ in range(self.pick.randrange(4))],
            "n": self.pick.randrange(-3, 4),
            "ok": self.pick.random() < 0.5,
            "score": number / POINTS,
            "at": (START + timedelta(hours=number)).isoformat(),
            "deep": {"list": [{"part": self.pick.randrange(3)}, {"part": 7}]},
            "mixed": self.pick.choice([1, "1", True, 1.0, None, [1, "1"], [1, True], [], {"a": 1}]),
        }
        if self.pick.random() < 0.2:
            del payload["line"]
        return payload


@pytest.fixture
def sampler() -> PointSampler:
    return PointSampler()


@pytest.fixture
def filled(pair: "QdrantPair", name: str, sampler: PointSampler) -> "QdrantPair":
    """Both with the same points in one collection."""
    fill(pair, name, sampler)
    return pair


def fill(
    pair: "QdrantPair", name: str, sampler: PointSampler, distance: qm.Distance = qm.Distance.COSINE
) -> None:
    points = [
        qm.PointStruct(id=number, vector=sampler.vector(), payload=sampler.payload(number))
        for number in range(POINTS)
    ]
    pair.do(lambda c: c.create_collection(name, qm.VectorParams(size=SIZE, distance=distance)))
    for key, kind in INDEXED.items():
        pair.do(lambda c, key=key, kind=kind: c.create_payload_index(name, key, qm.PayloadSchemaType(kind)))  # type: ignore[misc]
    pair.do(lambda c: c.upsert(name, points))


def where(key: str, value: bool | int | str) -> qm.Filter:
    return qm.Filter(must=[qm.FieldCondition(key=key, match=qm.MatchValue(value=value))])


def ids(points: Sequence[Any]) -> list[Any]:
    return [point.id for point in points]


# Groups.


@pytest.mark.parametrize("by", ["line", "tags", "tags[]", "n", "ok", "mixed", "deep.list[].part", "none"])
def test_groups_agree(filled: "QdrantPair", name: str, sampler: PointSampler, by: str) -> None:
    query = sampler.vector()
    for limit, size in ((1, 1), (3, 2), (4, 30), (50, 2), (50, POINTS)):
        filled.rank_alike(
            lambda c, limit=limit, size=size: c.query_points_groups(  # type: ignore[misc]
                name, group_by=by, query=query, limit=limit, group_size=size
            )
        )


def test_groups_accept_the_options_of_a_query(
    filled: "QdrantPair", name: str, sampler: PointSampler
) -> None:
    query = sampler.vector()
    options: Sequence[dict[str, Any]] = (
        {"query": query, "query_filter": where("ok", True), "with_payload": ["n"]},
        {"query": query, "with_payload": False, "with_vectors": True},
        {"query": query, "search_params": qm.SearchParams(exact=True), "limit": 2},
        {"query": 7, "limit": 20, "group_size": 20},
        {"query": recommend(1, 2, negative=[3])},
    )
    for option in options:
        found = filled.rank_alike(
            lambda c, option=option: c.query_points_groups(name, group_by="line", **option)  # type: ignore[misc]
        )
        assert found
    assert (
        filled.same(
            lambda c: c.query_points_groups(name, group_by="line", query=query, query_filter=where("n", 99))
        )
        == []
    )


def test_invalid_group_request_is_rejected(filled: "QdrantPair", name: str) -> None:
    query_groups = filled.tested.query_points_groups
    ones = [1.0] * SIZE
    filled.tested_rejects(BAD, lambda _: query_groups(name, group_by="line", query=ones, limit=0))
    filled.tested_rejects(BAD, lambda _: query_groups(name, group_by="line", query=ones, group_size=0))
    filled.tested_rejects(BAD, lambda _: query_groups(name, group_by="line", query=ones[1:]))
    filled.tested_rejects(BAD, lambda _: query_groups(name, group_by="a[", query=ones))
    filled.tested_rejects(MISSING, lambda _: query_groups(name, group_by="line", query=POINTS))
    filled.tested_rejects(MISSING, lambda _: query_groups(f"{name}-none", group_by="line", query=ones))


# Queries.


@pytest.mark.parametrize("distance", list(qm.Distance))
def test_diverse_hits_agree(
    pair: "QdrantPair", name: str, sampler: PointSampler, distance: qm.Distance
) -> None:
    fill(pair, name, sampler, distance)
    for diversity in (0.0, 0.3, 0.7, 1.0, None):
        query = sampler.vector()
        options: Sequence[dict[str, Any]] = (
            {"limit": 10},
            {"limit": 5, "offset": 3, "with_vectors": True},
            {"limit": 5, "query_filter": where("ok", True), "with_payload": ["n"]},
        )
        for option in options:
            mmr = qm.Mmr(diversity=diversity, candidates_limit=40)
            nearest = qm.NearestQuery(nearest=query, mmr=mmr)
            if not tied(pair, name, nearest, option, distance):
                pair.same(lambda c, q=nearest, option=option: c.query_points(name, query=q, **option))  # type: ignore[misc]
    plain = qm.NearestQuery(nearest=sampler.vector(), mmr=qm.Mmr())
    pair.same(lambda c: c.query_points(name, query=plain, limit=6))


def tied(
    pair: "QdrantPair", name: str, query: qm.NearestQuery, option: dict[str, Any], distance: qm.Distance
) -> bool:
    """Return True if the first hits that differ are equally good, because the others follow from them."""
    whole = {**option, "offset": 0, "limit": option["limit"] + option.get("offset", 0)}
    ours, theirs = (
        ids(client.query_points(name, query=query, **whole).points) for client in (pair.tested, pair.memory)
    )
    if ours == theirs:
        return False
    first = next(rank for rank, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
    known = pair.memory.retrieve(name, [*ours, *theirs], with_vectors=True)
    vectors = {record.id: np.array(record.vector) for record in known}

    def worth(point: Any) -> float:
        def near(other: Any) -> float:
            return float(calculate_distance_core(np.array(other), vectors[point][None], distance)[0])

        if not first:
            return near(query.nearest)
        assert query.mmr is not None
        diversity = 0.5 if query.mmr.diversity is None else query.mmr.diversity
        chosen = max(near(vectors[other]) for other in ours[:first])
        return (1 - diversity) * near(query.nearest) - diversity * chosen

    assert worth(ours[first]) == pytest.approx(worth(theirs[first]), rel=1e-5, abs=1e-5)
    return True


def test_diverse_hits_exclude_the_example(filled: "QdrantPair", name: str) -> None:
    query = qm.NearestQuery(nearest=5, mmr=qm.Mmr(diversity=0.5, candidates_limit=30))
    found = filled.same(lambda c: c.query_points(name, query=query, limit=30))
    assert len(found) == 30
    assert 5 not in [hit[0] for hit in found]


def test_diversity_outside_its_bounds_is_rejected(filled: "QdrantPair", name: str) -> None:
    for mmr in (qm.Mmr(diversity=1.5), qm.Mmr(diversity=-0.1), qm.Mmr(candidates_limit=20_000)):
        query = qm.NearestQuery(nearest=[1.0] * SIZE, mmr=mmr)
        filled.tested_rejects(BAD, lambda c, query=query: c.query_points(name, query=query))  # type: ignore[misc]
    absent = qm.NearestQuery(nearest=POINTS, mmr=qm.Mmr())
    filled.both_reject(MISSING, lambda c: c.query_points(name, query=absent))


@pytest.mark.parametrize("distance", list(qm.Distance))
def test_recommendations_agree(
    pair: "QdrantPair", name: str, sampler: PointSampler, distance: qm.Distance
) -> None:
    fill(pair, name, sampler, distance)
    examples: Sequence[tuple[list[Any], list[Any]]] = (
        ([1], []),
        ([1, 2, sampler.vector()], [3]),
        ([sampler.vector()], [sampler.vector(), 4]),
        ([1, 1], [9]),
    )
    options: Sequence[dict[str, Any]] = (
        {"limit": 10},
        {"limit": 4, "offset": 3, "with_payload": True},
        {"limit": POINTS, "query_filter": where("ok", False)},
    )
    for positive, negative in examples:
        query = recommend(*positive, negative=negative)
        for option in options:
            found = pair.rank_alike(
                lambda c, query=query, option=option: c.query_points(name, query=query, **option)  # type: ignore[misc]
            )
            points = {example for example in positive + negative if isinstance(example, int)}
            assert points.isdisjoint(hit[0] for hit in found)


def recommend(*positive: Any, negative: Sequence[Any] = ()) -> qm.RecommendQuery:
    return qm.RecommendQuery(
        recommend=qm.RecommendInput(
            positive=list(positive),
            negative=list(negative),
            strategy=qm.RecommendStrategy.AVERAGE_VECTOR,
        )
    )


def test_invalid_recommendation_is_rejected(filled: "QdrantPair", name: str) -> None:
    def call(*positive: Any, negative: Sequence[Any] = ()) -> Call:
        query = recommend(*positive, negative=negative)
        return lambda c: c.query_points(name, query=query)

    assert str(POINTS) in filled.both_reject(MISSING, call(1, POINTS))
    filled.both_reject(MISSING, call(1, negative=[str(uuid4())]))
    filled.both_reject(BAD, call(negative=[1]))
    filled.both_reject(BAD, call([1.0, 2.0]))
    filled.tested_rejects(BAD, call([float("nan")] * SIZE))


def test_quantized_search_equals_exact_search(
    filled: "QdrantPair", name: str, sampler: PointSampler
) -> None:
    query = sampler.vector()
    for params in (
        qm.SearchParams(quantization=qm.QuantizationSearchParams(rescore=True, oversampling=2.0)),
        qm.SearchParams(exact=True),
        qm.SearchParams(quantization=qm.QuantizationSearchParams(ignore=True)),
    ):
        filled.same(lambda c, params=params: c.query_points(name, query=query, search_params=params))  # type: ignore[misc]


# Collections.


def test_quantization_and_strict_mode_are_described(qdrant: QdrantClient, name: str) -> None:
    strict = qm.StrictModeConfig(enabled=True, max_query_limit=5)
    qdrant.create_collection(
        name,
        qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE),
        quantization_config=qm.ScalarQuantization(
            scalar=qm.ScalarQuantizationConfig(type=qm.ScalarType.INT8, always_ram=True)
        ),
        strict_mode_config=strict,
    )
    config = qdrant.get_collection(name).config
    assert isinstance(config.quantization_config, qm.ScalarQuantization)
    assert config.quantization_config.scalar.type is qm.ScalarType.INT8
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 5


def conditions(given: qm.Filter) -> Iterator[Any]:
    assert isinstance(given.must, list)
    yield from given.must


def test_alias_moves_atomically(qdrant: QdrantClient, name: str) -> None:
    old, new, alias = name, f"{name}-new", f"{name}-alias"

    def to(collection: str) -> list[Any]:
        return [
            qm.DeleteAliasOperation(delete_alias=qm.DeleteAlias(alias_name=alias)),
            qm.CreateAliasOperation(
                create_alias=qm.CreateAlias(collection_name=collection, alias_name=alias)
            ),
        ]

    try:
        for number, collection in enumerate((old, new)):
            qdrant.create_collection(collection, qm.VectorParams(size=2, distance=qm.Distance.DOT))
            qdrant.upsert(collection, [qm.PointStruct(id=number, vector=[1.0, 2.0])])
        for collection, there in ((old, [0]), (new, [1]), (old, [0])):
            assert qdrant.update_collection_aliases(to(collection))
            assert ids(qdrant.scroll(alias)[0]) == there
            assert ids(qdrant.query_points(alias, query=[1.0, 0.0]).points) == there
        with pytest.raises(grpc.RpcError):
            qdrant.update_collection_aliases(to(f"{name}-none"))
        assert ids(qdrant.scroll(alias)[0]) == [0]
    finally:
        qdrant.delete_collection(new)


def test_scroll_follows_the_order_of_a_field(filled: "QdrantPair", name: str) -> None:
    for key in ("score", "at"):
        for direction in qm.Direction:
            order = qm.OrderBy(key=key, direction=direction)
            found = filled.same(lambda c, order=order: c.scroll(name, limit=9, order_by=order))[0]  # type: ignore[misc]
            assert len(found) == 9


def test_filters_on_times_and_booleans_agree(filled: "QdrantPair", name: str) -> None:
    def between(**bounds: timedelta) -> qm.Filter:
        moments = {side: START + since for side, since in bounds.items()}
        return qm.Filter(must=[qm.FieldCondition(key="at", range=qm.DatetimeRange(**moments))])

    day = timedelta(days=1)
    for fits, how_many in (
        (between(gte=day, lt=2 * day), 24),
        (between(gt=day, lte=2 * day), 24),
        (between(gt=300 * day), 0),
    ):
        assert filled.same(lambda c, fits=fits: c.count(name, fits).count) == how_many  # type: ignore[misc]
    both = [filled.same(lambda c, ok=ok: c.count(name, where("ok", ok)).count) for ok in (True, False)]  # type: ignore[misc]
    assert sum(both) == POINTS
    assert all(both)


def test_facets_agree(filled: "QdrantPair", name: str) -> None:
    def facet(client: QdrantClient, key: str, among: qm.Filter | None = None) -> dict[Any, int]:
        return {hit.value: hit.count for hit in client.facet(name, key, among, 50, exact=True).hits}

    for key in ("line", "tags", "n", "ok"):
        assert filled.same(lambda c, key=key: facet(c, key))  # type: ignore[misc]
        assert filled.same(lambda c, key=key: facet(c, key, where("ok", True)))  # type: ignore[misc]


def test_writes_by_ids_and_by_filter_agree(filled: "QdrantPair", name: str) -> None:
    steps: Sequence[Call] = (
        lambda c: c.set_payload(name, {"verdict": "good"}, points=[1, 2, 3]),
        lambda c: c.set_payload(name, {"verdict": "bad", "ok": False}, points=where("ok", True)),
        lambda c: c.delete(name, [4, 5, POINTS]),
        lambda c: c.delete(name, where("line", "l1")),
        lambda c: c.delete(name, qm.Filter(must_not=[*conditions(where("verdict", "bad"))])),
    )
    for step in steps:
        filled.do(step)
        filled.same(lambda c: c.scroll(name, limit=POINTS))
        filled.same(lambda c: c.count(name, where("verdict", "bad")).count)
    assert filled.tested.count(name, where("ok", True)).count == 0
