# SPDX-License-Identifier: Apache-2.0
"""The index against Qdrant's in-memory twin; the contract tests hold the embedded one to the same twin."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from blemish_core.errors import InvalidRequest, NotFound, Unavailable
from blemish_core.index import CAMERA, DATASET, Filter, Item, Label, Query, SearchIndex, Similar, item_id
from blemish_core.index.failures import translated
from blemish_core.names import ModelRef

VERSION, NEXT = ModelRef("tile", 1), ModelRef("tile", 2)
CLASSES = ("good", "crack", "oil")

# The in-memory twin says so of every payload index; it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def vectors(count: int) -> NDArray[np.float32]:
    random = np.random.default_rng(4).normal(size=(count, 8)).astype(np.float32)
    return np.asarray(random / np.linalg.norm(random, axis=1, keepdims=True))


def items(count: int) -> list[Item]:
    return [
        Item(
            id=item_id(VERSION, f"{number}"),
            dataset="tile",
            category="tile",
            path=f"test/{CLASSES[number % 3]}/{number:03}.png",
            class_name=CLASSES[number % 3],
            sha256=f"{number}",
            score=float(number),
            p_value=0.5,
            anomalous=number % 3 > 0,
            time=NOON + timedelta(minutes=number),
            model_version=str(VERSION),
        )
        for number in range(count)
    ]


@pytest.fixture
def index() -> SearchIndex:
    index = SearchIndex(QdrantClient(":memory:"))
    index.prepare(VERSION, 8)
    index.put(VERSION, items(150), vectors(150))
    index.publish(VERSION)
    return index


def test_the_most_similar_come_first_over_all_pages(index: SearchIndex) -> None:
    query = vectors(150)[7]
    found = index.search(VERSION, Query(query), 130)
    expected = np.argsort(-vectors(150) @ query)[:130]
    assert [similar.item for similar in found] == [items(150)[number] for number in expected]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)


def test_a_stored_item_finds_others(index: SearchIndex) -> None:
    seven = items(150)[7]
    found = index.search(VERSION, Query(item=seven.id), 200)
    assert len(found) == 149
    assert seven not in [similar.item for similar in found]
    with pytest.raises(NotFound, match="no such item"):
        index.search(VERSION, Query(item=uuid4()), 5)


def test_filters_and_what_no_item_has(index: SearchIndex) -> None:
    query = vectors(150)[0]
    found = index.search(
        VERSION, Query(query, where=Filter(classes=["crack", "oil"], datasets=["tile"])), 200
    )
    assert {similar.item.class_name for similar in found} == {"crack", "oil"}
    assert len(found) == 100
    with pytest.raises(NotFound, match="has class_name 'dent'; there are: crack, good, oil"):
        index.search(VERSION, Query(query, where=Filter(classes=["crack", "dent"])), 5)


def test_the_same_image_again_is_the_same_point(index: SearchIndex) -> None:
    index.prepare(VERSION, 8)
    index.put(VERSION, items(150), vectors(150))
    assert index.count(VERSION) == 150


def test_what_is_not_published_is_not_found(index: SearchIndex) -> None:
    other = ModelRef("tile", 2)
    index.prepare(other, 8)
    index.put(other, items(3), vectors(3))
    with pytest.raises(NotFound, match="has no index yet"):
        index.count(other)
    index.publish(other)
    assert index.count(other) == 3


def test_a_vector_that_is_not_finite_is_a_bug(index: SearchIndex) -> None:
    broken = vectors(1)
    broken[0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        index.put(VERSION, items(1), broken)


def test_pages_of_hits_join_without_a_gap(index: SearchIndex) -> None:
    query = Query(vectors(150)[3])
    whole = index.search(VERSION, query, 40)
    parts = [index.search(VERSION, query, 10, offset=offset) for offset in range(0, 40, 10)]
    assert [hit.item for part in parts for hit in part] == [hit.item for hit in whole]


def test_groups_come_by_their_best_hit(index: SearchIndex) -> None:
    found = index.search(VERSION, Query(vectors(150)[4], group_by="class_name", group_size=2), 3)
    assert [hit.group for hit in found] == [hit.item.class_name for hit in found]
    assert len(found) == 6
    assert found[0].item == items(150)[4]
    best = [hit.similarity for hit in found[::2]]
    assert best == sorted(best, reverse=True)


def test_diversity_takes_hits_that_differ(index: SearchIndex) -> None:
    def alike(hits: list[Similar]) -> float:
        chosen = vectors(150)[[int(hit.item.sha256) for hit in hits]]
        return float((chosen @ chosen.T).mean())

    query = vectors(150)[4]
    plain, diverse = (index.search(VERSION, Query(query, diversity=by), 10) for by in (0.0, 0.9))
    assert alike(diverse) < alike(plain) - 0.1
    assert plain == index.search(VERSION, Query(query), 10)


def test_like_and_unlike_move_what_is_looked_for(index: SearchIndex) -> None:
    all_items, all_vectors = items(150), vectors(150)
    like, unlike = all_items[10], all_items[20]
    query = Query(all_vectors[5], like=[like.id], unlike=[unlike.id])
    found = index.search(VERSION, query, 5)
    positive = (all_vectors[5] + all_vectors[10]) / 2
    moved = positive + positive - all_vectors[20]
    order = [n for n in np.argsort(-all_vectors @ moved) if n not in (10, 20)]
    assert [hit.item for hit in found] == [all_items[number] for number in order[:5]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(), "no query"),
        (Query(unlike=[uuid4()]), "unlike alone"),
        (Query(vectors(1)[0], like=[uuid4()], diversity=0.5), "diversity does not go together"),
    ],
)
def test_a_query_that_asks_for_nothing_sound(index: SearchIndex, query: Query, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        index.search(VERSION, query, 5)


def test_labels_are_kept_when_an_image_is_indexed_again(index: SearchIndex) -> None:
    four = items(150)[4]
    index.label(VERSION, [four.id], Label.CONFIRMED, "scratch")
    index.put(VERSION, items(150)[:8], vectors(150)[:8])
    labelled = index.item(VERSION, four.id)
    assert (labelled.label, labelled.label_class) == (Label.CONFIRMED, "scratch")
    index.label(VERSION, [four.id], Label.NONE, "")
    assert index.item(VERSION, four.id) == four


def test_examples_of_a_defect_are_those_that_people_confirmed(index: SearchIndex) -> None:
    known = items(150)
    index.label(VERSION, [known[1].id, known[7].id], Label.CONFIRMED, "scratch")
    index.label(VERSION, [known[2].id], Label.FALSE_ALARM, "")
    like, unlike = index.labelled(VERSION, "scratch")
    assert (set(like), unlike) == ({known[1].id, known[7].id}, [known[2].id])
    with pytest.raises(NotFound, match="confirmed 'dent'; there are: scratch"):
        index.labelled(VERSION, "dent")


def test_the_index_of_a_new_version_takes_over_when_it_lacks_no_dataset(index: SearchIndex) -> None:
    assert index.answering("tile") is None
    assert index.advance(VERSION)
    assert index.answering("tile") == VERSION
    index.label(VERSION, [items(150)[0].id], Label.GOOD, "")
    index.put(VERSION, [replace(each, dataset="more") for each in items(151)[150:]], vectors(151)[150:])

    newer = ModelRef("tile", 2)
    again = [replace(each, id=item_id(newer, each.sha256)) for each in items(151)]
    index.prepare(newer, 8)
    assert not index.advance(newer), "it is not published"
    index.put(newer, again[:150], vectors(151)[:150])
    index.publish(newer)
    assert not index.advance(newer), "it lacks a dataset"
    assert index.answering("tile") == VERSION
    index.put(newer, [replace(again[150], dataset="more")], vectors(151)[150:])
    assert index.advance(newer)
    assert index.answering("tile") == newer
    carried = index.item(newer, again[0].id)
    assert (carried.label, carried.time) == (Label.GOOD, items(1)[0].time)


def test_a_dataset_image_that_a_camera_sends_too_stays_one_of_its_dataset(index: SearchIndex) -> None:
    """And a frame becomes one of a dataset that has it: retention takes none of either out."""
    vector = np.ones((1, 8), np.float32)

    def stored(version: ModelRef, *kinds: str) -> Item:
        sha256 = "".join(kinds)
        id = item_id(version, sha256)
        made = {
            "f": Item(id, sha256, 1.0, 0.5, False, source=CAMERA, camera="line-3", time=NOON),
            "d": Item(id, sha256, 1.0, 0.5, False, dataset="d", path="test/hole/0.png", class_name="hole"),
        }
        for kind in kinds:
            index.put(version, [made[kind]], vector)
        return index.item(version, id)

    for both in (stored(VERSION, "d", "f"), stored(VERSION, "f", "d")):
        assert (both.source, both.dataset, both.path) == (DATASET, "d", "test/hole/0.png")
        assert both.class_name == "hole"
    assert stored(VERSION, "f", "d").camera == "line-3"
    assert stored(VERSION, "f").source == CAMERA
    index.advance(VERSION)
    index.prepare(NEXT, 8)
    index.put(NEXT, [Item(item_id(NEXT, "df"), "df", 1.0, 0.5, False, source=CAMERA)], vector)
    index.publish(NEXT)
    assert index.item(NEXT, item_id(NEXT, "df")).source == CAMERA
    assert index.datasets(NEXT) == [], "the dataset itself is not there yet"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_qdrant_that_is_gone_or_stopped_in_the_middle_is_away(code: str) -> None:
    class Ended(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode[code]

    with pytest.raises(Unavailable, match="Qdrant does not answer"), translated():
        raise Ended
