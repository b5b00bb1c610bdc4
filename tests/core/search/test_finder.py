# SPDX-License-Identifier: Apache-2.0
"""Similarity searches against Qdrant's in-memory client; contract tests compare the embedded Qdrant."""

import threading
from collections.abc import Mapping
from uuid import uuid4

import numpy as np
import pytest
from qdrant_client import QdrantClient
from tests.support.qdrant_twin import VERSION, TwinPoints, filled_index, in_memory_qdrant, items, vectors

from blemish_core.platform.errors import InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import all_of, one_of
from blemish_core.search.finder import Finder, oversampling
from blemish_core.search.item import Item
from blemish_core.search.query import Query, Similar

# The in-memory client warns about every payload index, because it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture
def client() -> QdrantClient:
    return in_memory_qdrant()


@pytest.fixture
def points(client: QdrantClient) -> TwinPoints:
    return TwinPoints(client)


@pytest.fixture
def finder(client: QdrantClient, points: TwinPoints) -> Finder:
    filled_index(client)
    return Finder(points)


async def test_most_similar_items_come_first(finder: Finder) -> None:
    query = vectors(150)[7]
    found = await finder.search(VERSION, Query(query), 130)
    expected = np.argsort(-vectors(150) @ query)[:130]
    assert [similar.item for similar in found] == [items(150)[number] for number in expected]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)


async def test_stored_item_finds_others(finder: Finder) -> None:
    seven = items(150)[7]
    found = await finder.search(VERSION, Query(item=seven.id), 200)
    assert len(found) == 149
    assert seven not in [similar.item for similar in found]
    with pytest.raises(NotFound, match="is not in the index"):
        await finder.search(VERSION, Query(item=uuid4()), 5)


async def test_hits_fit_the_condition(finder: Finder) -> None:
    where = all_of([one_of("class_name", ["crack", "oil"]), one_of("dataset", ["tile"])])
    found = await finder.search(VERSION, Query(vectors(150)[0], where=where), 200)
    assert {similar.item.class_name for similar in found} == {"crack", "oil"}
    assert len(found) == 100


async def test_pages_of_hits_join_without_a_gap(finder: Finder) -> None:
    query = Query(vectors(150)[3])
    whole = await finder.search(VERSION, query, 40)
    parts = [await finder.search(VERSION, query, 10, offset=offset) for offset in range(0, 40, 10)]
    assert [hit.item for part in parts for hit in part] == [hit.item for hit in whole]


async def test_groups_come_by_their_best_hit(finder: Finder) -> None:
    found = await finder.search(VERSION, Query(vectors(150)[4], group_by="class_name", group_size=2), 3)
    assert [hit.group for hit in found] == [hit.item.class_name for hit in found]
    assert len(found) == 6
    assert found[0].item == items(150)[4]
    best = [hit.similarity for hit in found[::2]]
    assert best == sorted(best, reverse=True)


async def test_diverse_hits_differ_from_one_another(finder: Finder) -> None:
    def alike(hits: list[Similar]) -> float:
        chosen = vectors(150)[[int(hit.item.sha256) for hit in hits]]
        return float((chosen @ chosen.T).mean())

    query = vectors(150)[4]
    plain, diverse = [await finder.search(VERSION, Query(query, diversity=by), 10) for by in (0.0, 0.9)]
    assert alike(diverse) < alike(plain) - 0.1
    assert plain == await finder.search(VERSION, Query(query), 10)


async def test_examples_move_the_query_vector(finder: Finder) -> None:
    all_items, all_vectors = items(150), vectors(150)
    like, unlike = all_items[10], all_items[20]
    query = Query(all_vectors[5], like=[like.id], unlike=[unlike.id])
    found = await finder.search(VERSION, query, 5)
    positive = (all_vectors[5] + all_vectors[10]) / 2
    moved = positive + positive - all_vectors[20]
    order = [n for n in np.argsort(-all_vectors @ moved) if n not in (10, 20)]
    assert [hit.item for hit in found] == [all_items[number] for number in order[:5]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(), "contains no query"),
        (Query(unlike=[uuid4()]), "unlike alone"),
        (Query(vectors(1)[0], like=[uuid4()], diversity=0.5), "diversity cannot be combined"),
    ],
)
async def test_incomplete_or_contradictory_query_is_rejected(
    finder: Finder, query: Query, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await finder.search(VERSION, query, 5)


async def test_timeout_of_qdrant_is_the_callers_up_to_ten_seconds(
    finder: Finder, points: TwinPoints
) -> None:
    query = Query(vectors(1)[0])
    for given in (0.25, 3.5, 60.0):
        await finder.search(VERSION, query, 1, timeout_s=given)
    await finder.search(VERSION, query, 1)
    assert points.timeouts == [0.25, 3.5, 10, 10]


async def test_unpublished_index_is_not_searched(finder: Finder) -> None:
    with pytest.raises(NotFound, match="has no index yet"):
        await finder.search(ModelRef("tile", 2), Query(vectors(1)[0]), 1)


async def test_many_hits_are_parsed_in_a_thread(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    parse = Item.from_payload

    def note_thread(id: object, payload: Mapping[str, object]) -> Item:
        threads.add(threading.get_ident())
        return parse(id, payload)

    monkeypatch.setattr(Item, "from_payload", note_thread)
    for query, limit, beside in (
        (Query(vectors(1)[0]), 10, False),
        (Query(vectors(1)[0]), 65, True),
        (Query(vectors(1)[0], group_by="class_name", group_size=40), 3, True),
    ):
        threads.clear()
        await finder.search(VERSION, query, limit)
        assert (threading.get_ident() not in threads) == beside


def test_deeper_pages_compare_fewer_candidates_per_hit() -> None:
    assert [oversampling(depth) for depth in (1, 10, 1250, 2500, 5000, 11_000)] == [8, 8, 8, 4, 2, 2]
