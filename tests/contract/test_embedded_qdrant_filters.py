# SPDX-License-Identifier: Apache-2.0
"""Agreement of the embedded and the in-memory Qdrant on random filters; the seed is printed."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qm

if TYPE_CHECKING:
    from tests.contract.conftest import QdrantPair

POINTS, SIZE, FILTERS = 600, 32, 120
START = datetime(2026, 1, 1, tzinfo=UTC)
INDEXED = {
    "line": "keyword",
    "n": "integer",
    "score": "float",
    "ok": "bool",
    "at": "datetime",
    "tags": "keyword",
    "nested.k": "integer",
}

pytestmark = pytest.mark.filterwarnings(
    # The in-memory client warns that it has no payload indexes; its results need none.
    "ignore:Payload indexes have no effect in the local Qdrant:UserWarning"
)


class FilterSampler:
    """A source of random payloads, conditions and filters."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._values = np.random.default_rng(seed)

    def vector(self) -> list[float]:
        values: list[float] = self._values.standard_normal(SIZE, np.float32).tolist()
        return values

    def payload(self, number: int) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "line": f"l{number % 7}",
            "n": number % 50,
            "score": self._random.random(),
            "ok": number % 3 == 0,
            "at": (START + timedelta(minutes=number)).isoformat(),
            "tags": [f"g{number % 4}", f"h{number % 5}"][: number % 3],
            "nested": {"k": number % 6},
        }
        if number % 11 == 0:
            del payload["line"]
        if number % 13 == 0:
            payload["score"] = None
        return payload

    def filter(self, depth: int = 0) -> qm.Filter:
        parts: dict[str, Any] = {
            name: [self.condition(depth) for _ in range(self._random.randint(1, 2))]
            for name in ("must", "should", "must_not")
            if self._random.random() < 0.5
        }
        return qm.Filter(**parts)

    def condition(self, depth: int) -> Any:
        pick = self._random.randrange
        choices: Sequence[Callable[[], Any]] = (
            lambda: _matches("line", qm.MatchValue(value=f"l{pick(8)}")),
            lambda: _matches("n", qm.MatchValue(value=pick(55))),
            lambda: _matches("ok", qm.MatchValue(value=pick(2) == 0)),
            lambda: _matches("tags", qm.MatchAny(any=["g1", f"h{pick(6)}"])),
            lambda: _matches("nested.k", qm.MatchAny(any=[pick(7), pick(7)])),
            lambda: qm.FieldCondition(
                key="score", range=qm.Range(gte=self._random.random(), lt=self._random.choice([None, 0.9]))
            ),
            lambda: qm.FieldCondition(key="n", range=qm.Range(gt=pick(50), lte=pick(50))),
            lambda: qm.FieldCondition(
                key="at", range=qm.DatetimeRange(gte=START + timedelta(minutes=pick(POINTS)))
            ),
            lambda: qm.IsEmptyCondition(is_empty=qm.PayloadField(key="line")),
            lambda: qm.IsEmptyCondition(is_empty=qm.PayloadField(key="tags")),
            lambda: qm.HasIdCondition(has_id=[pick(POINTS) for _ in range(200)]),
            lambda: self.filter(depth + 1) if depth < 2 else _matches("n", qm.MatchValue(value=1)),
        )
        return self._random.choice(choices)()


def _matches(key: str, match: Any) -> qm.FieldCondition:
    return qm.FieldCondition(key=key, match=match)


def test_random_filters_agree(empty_pair: "QdrantPair") -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    sampler = FilterSampler(seed)
    points = [
        qm.PointStruct(id=number, vector=sampler.vector(), payload=sampler.payload(number))
        for number in range(POINTS)
    ]

    def fill(client: QdrantClient) -> None:
        params = qm.VectorParams(size=SIZE, distance=qm.Distance.COSINE)
        client.create_collection("d", vectors_config=params)
        for key, kind in INDEXED.items():
            client.create_payload_index("d", key, qm.PayloadSchemaType(kind))
        client.upsert("d", points)

    empty_pair.do(fill)
    found = 0
    for number in range(FILTERS):
        where, query = sampler.filter(), sampler.vector()
        context = f"seed {seed}, filter {number}: {where!r}"
        found += agree(empty_pair, where, query, context)
        if number % 20 == 10:
            some = qm.Filter(must=[_matches("n", qm.MatchValue(value=number % 50))])
            empty_pair.do(lambda c, n=number: c.delete("d", [n * 3, n * 3 + 1]))  # type: ignore[misc]
            empty_pair.do(lambda c, some=some: c.set_payload("d", {"n": 99}, points=some))  # type: ignore[misc]
    # Filters that match nothing would agree trivially.
    assert found > FILTERS, f"seed {seed}"
    for key in ("line", "n", "ok", "tags", "nested.k"):
        empty_pair.same(
            lambda c, key=key: {  # type: ignore[misc]
                hit.value: hit.count for hit in c.facet("d", key, limit=100, exact=True).hits
            }
        )


def agree(empty_pair: "QdrantPair", where: qm.Filter, query: list[float], context: str) -> int:
    """Return the number of matching points, after comparing count, scroll and query."""
    clients = (empty_pair.tested, empty_pair.memory)
    ours, theirs = (client.count("d", where).count for client in clients)
    assert ours == theirs, context
    listed = [[point.id for point in client.scroll("d", where, limit=20)[0]] for client in clients]
    assert listed[0] == listed[1], context
    found = [client.query_points("d", query, query_filter=where, limit=10).points for client in clients]
    scores = [[point.score for point in points] for points in found]
    assert len(scores[0]) == len(scores[1]), context
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5, err_msg=context)
    # Either of two points with the same score may be the tenth.
    least = min(scores[1], default=0.0) + 1e-5
    clear = [{point.id for point in points if point.score > least} for points in found]
    assert clear[0] - {point.id for point in found[1]} == set(), context
    assert clear[1] - {point.id for point in found[0]} == set(), context
    return ours
