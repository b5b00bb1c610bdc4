# SPDX-License-Identifier: Apache-2.0
"""What blemish asks of a Qdrant: the embedded one answers it, and so must the one at QDRANT_URL.

Hits and scores are compared with those of the client's in-memory Qdrant, on data that is new in
each run; the seed is printed.
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
    from tests.contract.conftest import Both

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
AVERAGE, BEST, SUM = (
    qm.RecommendStrategy.AVERAGE_VECTOR,
    qm.RecommendStrategy.BEST_SCORE,
    qm.RecommendStrategy.SUM_SCORES,
)
BAD, MISSING, UNSUPPORTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
)

pytestmark = [
    # The in-memory client says what it has no need of: it looks at every point.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

Call = Callable[[QdrantClient], Any]


class Draw:
    """Random vectors and payloads."""

    def __init__(self) -> None:
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")
        self._values = np.random.default_rng(seed)
        self.pick = random.Random(seed)

    def vector(self, size: int = SIZE) -> list[float]:
        values: list[float] = self._values.standard_normal(size, np.float32).tolist()
        return values

    def rows(self, size: int) -> list[list[float]]:
        return [self.vector(size) for _ in range(self.pick.randint(1, 4))]

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
def draw() -> Draw:
    return Draw()


@pytest.fixture
def filled(pair: "Both", name: str, draw: Draw) -> "Both":
    """Both with the same points in the collection ``name``."""
    fill(pair, name, draw)
    return pair


def fill(pair: "Both", name: str, draw: Draw, distance: qm.Distance = qm.Distance.COSINE) -> None:
    points = [
        qm.PointStruct(id=number, vector=draw.vector(), payload=draw.payload(number))
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
def test_groups_agree(filled: "Both", name: str, draw: Draw, by: str) -> None:
    query = draw.vector()
    for limit, size in ((1, 1), (3, 2), (4, 30), (50, 2), (50, POINTS)):
        filled.rank_alike(
            lambda c, limit=limit, size=size: c.query_points_groups(  # type: ignore[misc]
                name, group_by=by, query=query, limit=limit, group_size=size
            )
        )


def test_groups_take_what_a_query_takes(filled: "Both", name: str, draw: Draw) -> None:
    query = draw.vector()
    recommend = qm.RecommendInput(positive=[1, 2], negative=[3])
    options: Sequence[dict[str, Any]] = (
        {"query": query, "query_filter": where("ok", True), "with_payload": ["n"]},
        {"query": query, "with_payload": False, "with_vectors": True},
        {"query": query, "score_threshold": 0.2, "limit": 20},
        {"query": query, "search_params": qm.SearchParams(exact=True), "limit": 2},
        {"query": 7, "limit": 20, "group_size": 20},
        {"query": qm.RecommendQuery(recommend=recommend)},
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


def test_a_group_request_that_cannot_be_is_refused(filled: "Both", name: str) -> None:
    ask = filled.embedded.query_points_groups
    ones = [1.0] * SIZE
    filled.refused(BAD, lambda _: ask(name, group_by="line", query=ones, limit=0))
    filled.refused(BAD, lambda _: ask(name, group_by="line", query=ones, group_size=0))
    filled.refused(BAD, lambda _: ask(name, group_by="line", query=ones[1:]))
    filled.refused(BAD, lambda _: ask(name, group_by="a[", query=ones))
    filled.refused(MISSING, lambda _: ask(name, group_by="line", query=POINTS))
    filled.refused(MISSING, lambda _: ask(f"{name}-none", group_by="line", query=ones))


# Queries.


@pytest.mark.parametrize("distance", list(qm.Distance))
def test_diverse_hits_agree(pair: "Both", name: str, draw: Draw, distance: qm.Distance) -> None:
    fill(pair, name, draw, distance)
    for diversity in (0.0, 0.3, 0.7, 1.0, None):
        query = draw.vector()
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
    plain = qm.NearestQuery(nearest=draw.vector(), mmr=qm.Mmr())
    pair.same(lambda c: c.query_points(name, query=plain, limit=6))


def tied(
    pair: "Both", name: str, query: qm.NearestQuery, option: dict[str, Any], distance: qm.Distance
) -> bool:
    """Return whether the first hit that differs is as good in both: the rest follows from it."""
    whole = {**option, "offset": 0, "limit": option["limit"] + option.get("offset", 0)}
    ours, theirs = (
        ids(client.query_points(name, query=query, **whole).points)
        for client in (pair.embedded, pair.memory)
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


def test_diverse_hits_of_a_point_leave_it_out(filled: "Both", name: str) -> None:
    query = qm.NearestQuery(nearest=5, mmr=qm.Mmr(diversity=0.5, candidates_limit=30))
    found = filled.same(lambda c: c.query_points(name, query=query, limit=30))
    assert len(found) == 30
    assert 5 not in [hit[0] for hit in found]
    high = filled.embedded.query_points(name, query=query, limit=30, score_threshold=0.5).points
    assert high
    assert min(point.score for point in high) >= 0.5


def test_a_diversity_beyond_its_bounds_is_refused(filled: "Both", name: str) -> None:
    for mmr in (qm.Mmr(diversity=1.5), qm.Mmr(diversity=-0.1), qm.Mmr(candidates_limit=20_000)):
        query = qm.NearestQuery(nearest=[1.0] * SIZE, mmr=mmr)
        filled.refused(BAD, lambda c, query=query: c.query_points(name, query=query))  # type: ignore[misc]
    absent = qm.NearestQuery(nearest=POINTS, mmr=qm.Mmr())
    filled.refuse(MISSING, lambda c: c.query_points(name, query=absent))


@pytest.mark.parametrize("distance", list(qm.Distance))
@pytest.mark.parametrize("strategy", [AVERAGE, BEST, SUM, None])
def test_recommendations_agree(
    pair: "Both", name: str, draw: Draw, distance: qm.Distance, strategy: qm.RecommendStrategy | None
) -> None:
    fill(pair, name, draw, distance)
    examples: Sequence[tuple[list[Any], list[Any]]] = (
        ([1], []),
        ([1, 2, draw.vector()], [3]),
        ([draw.vector()], [draw.vector(), 4]),
        ([1, 1], [9]),
    )
    if strategy in (BEST, SUM):
        examples = (*examples, ([], [5, draw.vector()]))
    options: Sequence[dict[str, Any]] = (
        {"limit": 10},
        {"limit": 4, "offset": 3, "with_payload": True},
        {"limit": POINTS, "query_filter": where("ok", False)},
    )
    # A sum adds squares of up to 100 that cancel each other: each is rounded at 4e-6.
    within = 1e-4 if strategy is SUM else 1e-5
    for positive, negative in examples:
        query = qm.RecommendQuery(
            recommend=qm.RecommendInput(positive=positive, negative=negative, strategy=strategy)
        )
        for option in options:
            found = pair.rank_alike(
                lambda c, query=query, option=option: c.query_points(name, query=query, **option),  # type: ignore[misc]
                within=within,
            )
            named = {example for example in positive + negative if isinstance(example, int)}
            assert named.isdisjoint(hit[0] for hit in found)


def test_recommendations_below_a_score_are_left_out(filled: "Both", name: str, draw: Draw) -> None:
    for strategy, least in ((AVERAGE, 0.2), (BEST, 0.6), (SUM, 0.3)):
        recommend = qm.RecommendInput(positive=[1, draw.vector()], negative=[2], strategy=strategy)
        query = qm.RecommendQuery(recommend=recommend)
        found = filled.rank_alike(
            lambda c, query=query, least=least: c.query_points(  # type: ignore[misc]
                name, query=query, limit=POINTS, score_threshold=least
            )
        )
        assert 0 < len(found) < POINTS - 2


def test_a_recommendation_that_cannot_be_is_refused(filled: "Both", name: str) -> None:
    def recommend(
        *positive: Any, not_: Sequence[Any] = (), strategy: qm.RecommendStrategy = AVERAGE
    ) -> Call:
        told = qm.RecommendInput(positive=list(positive), negative=list(not_), strategy=strategy)
        return lambda c: c.query_points(name, query=qm.RecommendQuery(recommend=told))

    assert str(POINTS) in filled.refuse(MISSING, recommend(1, POINTS))
    filled.refuse(MISSING, recommend(1, not_=[str(uuid4())], strategy=BEST))
    filled.refuse(BAD, recommend(not_=[1]))
    filled.refuse(BAD, recommend(strategy=SUM))
    filled.refuse(BAD, recommend([1.0, 2.0]))
    filled.refused(BAD, recommend([float("nan")] * SIZE, strategy=BEST))


# Vectors.


@pytest.fixture
def named(pair: "Both", name: str, draw: Draw) -> "Both":
    """Both with a vector and a multivector of each of 100 points; some lack the one or the other."""
    vectors = {
        "image": qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE),
        "patches": qm.VectorParams(
            size=4,
            distance=qm.Distance.COSINE,
            multivector_config=qm.MultiVectorConfig(comparator=qm.MultiVectorComparator.MAX_SIM),
        ),
    }
    quantized = qm.ScalarQuantization(scalar=qm.ScalarQuantizationConfig(type=qm.ScalarType.INT8))
    points = [
        qm.PointStruct(
            id=number,
            vector={
                key: value
                for key, value in (("image", draw.vector()), ("patches", draw.rows(4)))
                if (number % 10, key) not in ((3, "image"), (4, "patches"))
            },
            payload=draw.payload(number),
        )
        for number in range(100)
    ]
    pair.do(lambda c: c.create_collection(name, vectors, quantization_config=quantized))
    pair.do(lambda c: c.upsert(name, points))
    return pair


def test_multivectors_come_back_and_are_compared_by_their_best_rows(
    named: "Both", name: str, draw: Draw
) -> None:
    assert named.same(lambda c: c.scroll(name, limit=100, with_vectors=True))
    assert named.same(lambda c: c.retrieve(name, [1, 2], with_vectors=["patches"]))
    rows = draw.rows(4)
    recommend = qm.RecommendInput(positive=[1, rows], negative=[2])
    for query in (
        rows,
        7,
        qm.RecommendQuery(recommend=recommend),
        qm.RecommendQuery(recommend=recommend.model_copy(update={"strategy": BEST})),
    ):
        found = named.rank_alike(
            lambda c, query=query: c.query_points(name, query=query, using="patches", limit=20)  # type: ignore[misc]
        )
        assert len(found) == 20
    diverse = qm.NearestQuery(nearest=rows, mmr=qm.Mmr(diversity=0.4, candidates_limit=30))
    for wanted in (False, True, ["image"]):
        named.same(
            lambda c, wanted=wanted: c.query_points(
                name, query=diverse, using="patches", with_vectors=wanted
            )  # type: ignore[misc]
        )
    # The in-memory one wants a list of the one row.
    served = [
        named.embedded.query_points(name, query=query, using="patches") for query in (rows[0], rows[:1])
    ]
    assert ids(served[0].points) == ids(served[1].points)
    named.same(lambda c: c.query_points_groups(name, group_by="line", query=rows, using="patches"))
    named.do(lambda c: c.update_vectors(name, [qm.PointVectors(id=4, vector={"patches": rows})]))
    assert named.same(lambda c: c.query_points(name, query=rows, using="patches", limit=1))[0][0] == 4


def test_a_multivector_that_cannot_be_is_refused(named: "Both", name: str) -> None:
    ones, nan = [1.0] * 4, float("nan")
    bad: Sequence[list[list[float]]] = ([ones, ones[1:]], [], [[]], [ones, [nan] * 4])
    for rows in bad:
        point = qm.PointStruct(id=500, vector={"patches": rows})
        named.refused(BAD, lambda c, point=point: c.upsert(name, [point]))  # type: ignore[misc]
    named.refused(BAD, lambda c: c.query_points(name, query=[ones, ones[1:]], using="patches"))
    named.refused(BAD, lambda c: c.query_points(name, query=[[1.0] * SIZE], using="image"))
    assert named.embedded.count(name).count == 100


def test_a_quantized_search_finds_what_an_exact_one_does(named: "Both", name: str, draw: Draw) -> None:
    query = draw.vector()
    for params in (
        qm.SearchParams(quantization=qm.QuantizationSearchParams(rescore=True, oversampling=2.0)),
        qm.SearchParams(exact=True),
        qm.SearchParams(quantization=qm.QuantizationSearchParams(ignore=True)),
    ):
        named.same(
            lambda c, params=params: c.query_points(name, query=query, using="image", search_params=params)  # type: ignore[misc]
        )
    told = named.embedded.get_collection(name).config
    assert isinstance(told.quantization_config, qm.ScalarQuantization)
    assert told.quantization_config.scalar.type is qm.ScalarType.INT8
    assert isinstance(told.params.vectors, dict)
    patches = told.params.vectors["patches"]
    assert patches.multivector_config == qm.MultiVectorConfig(comparator=qm.MultiVectorComparator.MAX_SIM)


# Strict mode.


@pytest.fixture
def strict(filled: "Both", name: str) -> "Both":
    filled.embedded.update_collection(
        name,
        strict_mode_config=qm.StrictModeConfig(
            enabled=True,
            max_query_limit=10,
            max_timeout=20,
            unindexed_filtering_retrieve=False,
            unindexed_filtering_update=False,
            search_max_hnsw_ef=100,
            search_max_oversampling=3.0,
            upsert_max_batchsize=5,
            search_max_batchsize=2,
        ),
    )
    return filled


def test_strict_mode_is_kept_and_changed(qdrant: QdrantClient, name: str) -> None:
    params = qm.VectorParams(size=SIZE, distance=qm.Distance.DOT)
    made = qm.StrictModeConfig(enabled=True, max_query_limit=5)
    qdrant.create_collection(name, params, strict_mode_config=made)
    told = qdrant.get_collection(name).config.strict_mode_config
    assert told is not None
    assert (told.enabled, told.max_query_limit, told.max_timeout) == (True, 5, None)
    with pytest.raises(grpc.RpcError, match="Limit exceeded 6 > 5"):
        qdrant.scroll(name, limit=6)
    # What is not named stays.
    qdrant.update_collection(name, strict_mode_config=qm.StrictModeConfig(max_timeout=9))
    told = qdrant.get_collection(name).config.strict_mode_config
    assert told is not None
    assert (told.enabled, told.max_query_limit, told.max_timeout) == (True, 5, 9)
    qdrant.update_collection(name, strict_mode_config=qm.StrictModeConfig(enabled=False))
    assert qdrant.scroll(name, limit=6) == ([], None)


def test_strict_mode_limits_what_is_asked_for(strict: "Both", name: str) -> None:
    ones = [1.0] * SIZE
    said = (
        'Bad request: Limit exceeded 11 > 10 for "limit". '
        'Help: Reduce the "limit" parameter to or below 10.'
    )
    for call in (
        lambda c: c.query_points(name, query=ones, limit=11),
        lambda c: c.query_points_groups(name, group_by="line", query=ones, limit=11, group_size=1),
        lambda c: c.query_batch_points(name, [qm.QueryRequest(query=ones, limit=11)]),
        lambda c: c.scroll(name, limit=11),
    ):
        assert strict.refused(BAD, call) == said
    points = [qm.PointStruct(id=number, vector=ones) for number in range(6)]
    oversampled = qm.SearchParams(quantization=qm.QuantizationSearchParams(oversampling=4.0))
    for call, name_of_limit in (
        (
            lambda c: c.query_points_groups(name, group_by="line", query=ones, limit=4, group_size=3),
            "limit",
        ),
        (lambda c: c.query_points(name, query=ones, timeout=21), "timeout"),
        (lambda c: c.query_points(name, query=ones, search_params=qm.SearchParams(hnsw_ef=101)), "hnsw_ef"),
        (lambda c: c.query_points(name, query=ones, search_params=oversampled), "oversampling"),
        (lambda c: c.query_batch_points(name, [qm.QueryRequest(query=ones)] * 3), "search batch size"),
        (lambda c: c.upsert(name, points), "upsert limit"),
        (lambda c: c.update_vectors(name, [qm.PointVectors(id=1, vector=ones)] * 6), "update limit"),
    ):
        assert f'for "{name_of_limit}"' in strict.refused(BAD, call)
    assert len(strict.embedded.query_points(name, query=ones, limit=10, timeout=20).points) == 10
    strict.embedded.upsert(name, points[:5])


def test_strict_mode_wants_an_index_for_each_filter(strict: "Both", name: str) -> None:
    ones = [1.0] * SIZE
    free = qm.Filter(should=[qm.Filter(must_not=[*conditions(where("deep.x", "a"))])])
    said = (
        'Bad request: Index required but not found for "deep.x" of one of the following types: [keyword]. '
        "Help: Create an index for this key or use a different filter."
    )
    for call in (
        lambda c: c.query_points(name, query=ones, query_filter=free),
        lambda c: c.query_points_groups(name, group_by="line", query=ones, query_filter=free, limit=3),
        lambda c: c.query_batch_points(name, [qm.QueryRequest(query=ones, filter=free)]),
        lambda c: c.scroll(name, free, limit=1),
        lambda c: c.count(name, free),
        lambda c: c.facet(name, "line", free),
        lambda c: c.delete(name, free),
        lambda c: c.set_payload(name, {"x": 1}, points=free),
        lambda c: c.overwrite_payload(name, {"x": 1}, points=free),
        lambda c: c.delete_payload(name, ["x"], points=free),
        lambda c: c.clear_payload(name, free),
        lambda c: c.batch_update_points(name, [qm.DeleteOperation(delete=qm.FilterSelector(filter=free))]),
    ):
        assert strict.refused(BAD, call) == said
    strict.refused(BAD, lambda c: c.query_points_groups(name, group_by="deep.x", query=ones, limit=1))
    # An index of another type is none.
    for condition in (
        qm.FieldCondition(key="line", match=qm.MatchValue(value=1)),
        qm.FieldCondition(key="line", match=qm.MatchText(text="a")),
        qm.FieldCondition(key="n", range=qm.DatetimeRange(gte=START)),
        qm.FieldCondition(key="at", range=qm.Range(gte=1)),
        qm.IsNullCondition(is_null=qm.PayloadField(key="mixed")),
        qm.NestedCondition(nested=qm.Nested(key="deep.list", filter=where("part", 1))),
    ):
        strict.refused(BAD, lambda c, one=condition: c.count(name, qm.Filter(must=[one])))  # type: ignore[misc]
    fits = qm.Filter(
        must=[
            qm.FieldCondition(key="line", match=qm.MatchAny(any=["l1", "l2"])),
            qm.FieldCondition(key="n", range=qm.Range(gte=0)),
            qm.FieldCondition(key="at", range=qm.DatetimeRange(gte=START)),
            qm.IsEmptyCondition(is_empty=qm.PayloadField(key="score")),
            qm.HasIdCondition(has_id=[1]),
        ]
    )
    assert strict.embedded.count(name, fits).count == 0
    strict.embedded.create_payload_index(name, "deep.x", qm.PayloadSchemaType.KEYWORD)
    assert strict.embedded.count(name, free).count == POINTS


def conditions(given: qm.Filter) -> Iterator[Any]:
    assert isinstance(given.must, list)
    yield from given.must


# What the code uses beside.


def test_an_alias_moves_at_once(qdrant: QdrantClient, name: str) -> None:
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


def test_points_are_read_in_the_order_of_a_field(filled: "Both", name: str) -> None:
    for key, start in (("score", 0.5), ("at", START + timedelta(hours=20))):
        for direction in qm.Direction:
            order = qm.OrderBy(key=key, direction=direction, start_from=start)
            found = filled.same(lambda c, order=order: c.scroll(name, limit=9, order_by=order))[0]  # type: ignore[misc]
            assert len(found) == 9
            query = qm.OrderByQuery(order_by=order)
            served = filled.embedded.query_points(name, query=query, limit=9).points
            assert ids(served) == [hit[0] for hit in found]


def test_moments_and_bools_are_filtered(filled: "Both", name: str) -> None:
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


def test_values_are_counted(filled: "Both", name: str) -> None:
    def facet(client: QdrantClient, key: str, among: qm.Filter | None = None) -> dict[Any, int]:
        return {hit.value: hit.count for hit in client.facet(name, key, among, 50, exact=True).hits}

    for key in ("line", "tags", "n", "ok"):
        assert filled.same(lambda c, key=key: facet(c, key))  # type: ignore[misc]
        assert filled.same(lambda c, key=key: facet(c, key, where("ok", True)))  # type: ignore[misc]


def test_payloads_are_set_and_points_deleted_by_ids_and_by_filter(filled: "Both", name: str) -> None:
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
    assert filled.embedded.count(name, where("ok", True)).count == 0
