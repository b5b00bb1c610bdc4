# SPDX-License-Identifier: Apache-2.0
"""The index against Qdrant's in-memory twin; the contract tests hold the embedded one to the same twin."""

from dataclasses import replace

import grpc.aio
import numpy as np
import pytest
from qdrant_client import QdrantClient
from tests.core.search.twin import NOON, VERSION, filled, items, vectors

from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.failures import translated
from blemish_core.search.item import CAMERA, DATASET, Item, Label, item_id
from blemish_core.search.search_index import SearchIndex

NEXT = ModelRef("tile", 2)

# The in-memory twin says so of every payload index; it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture
def index() -> SearchIndex:
    return filled(QdrantClient(":memory:"))


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
    assert index.serving_version("tile") is None
    assert index.advance(VERSION)
    assert index.serving_version("tile") == VERSION
    index.label(VERSION, [items(150)[0].id], Label.GOOD, "")
    index.put(VERSION, [replace(each, dataset="more") for each in items(151)[150:]], vectors(151)[150:])

    newer = ModelRef("tile", 2)
    again = [replace(each, id=item_id(newer, each.sha256)) for each in items(151)]
    index.prepare(newer, 8)
    assert not index.advance(newer), "it is not published"
    index.put(newer, again[:150], vectors(151)[:150])
    index.publish(newer)
    assert not index.advance(newer), "it lacks a dataset"
    assert index.serving_version("tile") == VERSION
    index.put(newer, [replace(again[150], dataset="more")], vectors(151)[150:])
    assert index.advance(newer)
    assert index.serving_version("tile") == newer
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


def exhausted(*told: tuple[str, str]) -> grpc.aio.AioRpcError:
    code, details = grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests"
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*told), details)


def test_qdrant_that_asks_to_be_left_alone_is_away_for_as_long() -> None:
    with pytest.raises(Unavailable, match="Qdrant refuses: too many requests") as away, translated():
        raise exhausted(("date", "today"), ("retry-after", "7"))
    assert away.value.retry_after_s == 7


def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    with pytest.raises(grpc.aio.AioRpcError), translated():
        raise exhausted()
