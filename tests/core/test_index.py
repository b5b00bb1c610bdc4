# SPDX-License-Identifier: Apache-2.0
"""The index against Qdrant's in-memory twin; the contract tests hold the embedded one to the same twin."""

from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import QdrantClient

from blemish_core.errors import NotFound
from blemish_core.index import Filter, Item, SearchIndex, item_id
from blemish_core.names import ModelRef

VERSION = ModelRef("tile", 1)
CLASSES = ("good", "crack", "oil")

# The in-memory twin says so of every payload index; it has none.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


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
    found = list(index.search(VERSION, query, 130, Filter()))
    expected = np.argsort(-vectors(150) @ query)[:130]
    assert [similar.item for similar in found] == [items(150)[number] for number in expected]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)


def test_a_stored_item_finds_others(index: SearchIndex) -> None:
    seven = items(150)[7]
    found = list(index.search(VERSION, seven.id, 200, Filter()))
    assert len(found) == 149
    assert seven not in [similar.item for similar in found]
    with pytest.raises(NotFound, match="has no item"):
        list(index.search(VERSION, uuid4(), 5, Filter()))


def test_filters_and_what_no_item_has(index: SearchIndex) -> None:
    query = vectors(150)[0]
    found = list(index.search(VERSION, query, 200, Filter(classes=["crack", "oil"], datasets=["tile"])))
    assert {similar.item.class_name for similar in found} == {"crack", "oil"}
    assert len(found) == 100
    with pytest.raises(NotFound, match="has class_name 'dent'; there are: crack, good, oil"):
        list(index.search(VERSION, query, 5, Filter(classes=["crack", "dent"])))


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
