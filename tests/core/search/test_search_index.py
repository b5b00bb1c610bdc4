# SPDX-License-Identifier: Apache-2.0
"""The index on Qdrant's in-memory client; contract tests compare the embedded Qdrant with it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import grpc.aio
import numpy as np
import pytest
from tests.support.qdrant_twin import NOON, VERSION, filled_index, in_memory_qdrant, items, vectors

from blemish_core.platform.errors import DiskFull, InvalidRequest, NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import ANY_ITEM, Condition, any_of, equals
from blemish_core.search.item import CAMERA, DATASET, Item, Label, item_id
from blemish_core.search.qdrant_errors import translated_errors
from blemish_core.search.search_index import ItemOrder, OrderedAfter, SearchIndex, published_alias

NEXT = ModelRef("tile", 2)

# The in-memory client warns about every payload index, because it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture
def index() -> SearchIndex:
    return filled_index(in_memory_qdrant())


def test_image_has_one_point_however_often_it_is_indexed(index: SearchIndex) -> None:
    index.prepare(VERSION, 8)
    index.put(VERSION, items(150), vectors(150))
    assert index.count(VERSION) == 150


def test_unpublished_index_is_not_found(index: SearchIndex) -> None:
    other = ModelRef("tile", 2)
    index.prepare(other, 8)
    index.put(other, items(3), vectors(3))
    with pytest.raises(NotFound, match="has no index yet"):
        index.count(other)
    index.publish(other)
    assert index.count(other) == 3


def test_embedding_that_is_not_finite_is_rejected(index: SearchIndex) -> None:
    broken = vectors(1)
    broken[0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        index.put(VERSION, items(1), broken)


def test_label_survives_when_image_is_indexed_again(index: SearchIndex) -> None:
    four = items(150)[4]
    index.label(VERSION, [four.id], Label.CONFIRMED, "scratch")
    index.put(VERSION, items(150)[:8], vectors(150)[:8])
    labelled = index.item(VERSION, four.id)
    assert (labelled.label, labelled.label_class) == (Label.CONFIRMED, "scratch")
    index.label(VERSION, [four.id], Label.NONE, "")
    assert index.item(VERSION, four.id) == four


def test_examples_are_confirmed_items_and_false_alarms(index: SearchIndex) -> None:
    indexed = items(150)
    index.label(VERSION, [indexed[1].id, indexed[7].id], Label.CONFIRMED, "scratch")
    index.label(VERSION, [indexed[2].id], Label.FALSE_ALARM, "")
    like, unlike = index.labelled_examples(VERSION, "scratch")
    assert (set(like), unlike) == ({indexed[1].id, indexed[7].id}, [indexed[2].id])
    with pytest.raises(NotFound, match="confirmed item of class 'dent'; the classes are: scratch"):
        index.labelled_examples(VERSION, "dent")


def test_new_index_inherits_labels_and_times_from_the_serving_one(index: SearchIndex) -> None:
    index.set_serving_version(VERSION)
    index.label(VERSION, [items(1)[0].id], Label.GOOD, "")
    again = [
        replace(each, id=item_id(NEXT, each.sha256), time=NOON + timedelta(days=1)) for each in items(3)
    ]
    index.prepare(NEXT, 8)
    index.put(NEXT, again, vectors(3))
    index.publish(NEXT)
    inherited = index.item(NEXT, again[0].id)
    assert (inherited.label, inherited.time) == (Label.GOOD, items(1)[0].time)


def test_serving_version_is_the_one_set_last(index: SearchIndex) -> None:
    assert index.serving_version("tile") is None
    index.prepare(NEXT, 8)
    for version in (VERSION, NEXT, VERSION):
        index.set_serving_version(version)
        assert index.serving_version("tile") == version
    assert index.serving_version("grid") is None


def test_reference_resolves_to_the_serving_version_or_else_to_its_own(index: SearchIndex) -> None:
    model = ModelRef("tile")
    assert index.resolve(model, NEXT) == NEXT
    index.set_serving_version(VERSION)
    assert index.resolve(model, NEXT) == VERSION
    assert index.resolve(NEXT, NEXT) == NEXT
    assert index.resolve(ModelRef("tile", alias="latest"), NEXT) == NEXT


def test_filter_value_without_items_is_rejected_with_those_that_exist(index: SearchIndex) -> None:
    index.check_values_exist(VERSION, {"class_name": ["crack", "oil"], "dataset": ["tile"]})
    with pytest.raises(NotFound, match="has class_name 'dent'; there are: crack, good, oil"):
        index.check_values_exist(VERSION, {"dataset": ["tile"], "class_name": ["crack", "dent"]})


def test_only_published_index_passes_the_check(index: SearchIndex) -> None:
    index.check_published(VERSION)
    index.prepare(NEXT, 8)
    with pytest.raises(NotFound, match="has no index yet"):
        index.check_published(NEXT)


def test_discarded_job_leaves_points_of_other_jobs(index: SearchIndex) -> None:
    index.put(VERSION, items(152)[150:], vectors(152)[150:], job="j")
    index.put(VERSION, items(151)[150:], vectors(151)[150:], job="later")
    index.discard(VERSION, "j")
    assert index.count(VERSION) == 150


def test_name_of_a_frame_stays_when_it_is_indexed_again(index: SearchIndex) -> None:
    vector = np.ones((1, 8), np.float32)

    def put(version: ModelRef, name: str) -> Item:
        id = item_id(version, "f")
        frame = Item(id, "f", 1.0, 0.5, False, source=CAMERA, camera="line-3", time=NOON, name=name)
        index.put(version, [frame], vector)
        return index.item(version, id)

    assert put(VERSION, "first.png").name == "first.png"
    assert put(VERSION, "second.png").name == "first.png"
    index.set_serving_version(VERSION)
    index.prepare(NEXT, 8)
    index.publish(NEXT)
    assert put(NEXT, "").name == "first.png"
    payload = Item(item_id(NEXT, "f"), "f", 1.0, 0.5, False).to_payload()
    assert "name" not in payload, "points of older servers have none either"
    assert Item.from_payload(item_id(NEXT, "f"), payload).name == ""


def test_image_of_dataset_and_camera_belongs_to_the_dataset(index: SearchIndex) -> None:
    """Retention removes camera frames, so an image of a dataset never counts as one."""
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
    index.set_serving_version(VERSION)
    index.prepare(NEXT, 8)
    index.put(NEXT, [Item(item_id(NEXT, "df"), "df", 1.0, 0.5, False, source=CAMERA)], vector)
    index.publish(NEXT)
    assert index.item(NEXT, item_id(NEXT, "df")).source == CAMERA
    assert index.datasets(NEXT) == [], "the dataset itself is not there yet"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_unreachable_or_cancelled_qdrant_is_unavailable(code: str) -> None:
    class Ended(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode[code]

    with pytest.raises(Unavailable, match="Qdrant does not respond"), translated_errors():
        raise Ended


def exhausted(*metadata: tuple[str, str], details: str = "too many requests") -> grpc.aio.AioRpcError:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


def test_full_disk_of_qdrant_is_reported_as_such() -> None:
    with pytest.raises(DiskFull, match="disk of Qdrant is full; free some space"), translated_errors():
        raise exhausted(details="Service error: No space left on device (os error 28)")


def test_overloaded_qdrant_is_unavailable_for_the_requested_delay() -> None:
    with (
        pytest.raises(
            Unavailable, match="Qdrant rejected the request: too many requests; retry in 7 s"
        ) as error,
        translated_errors(),
    ):
        raise exhausted(("date", "today"), ("retry-after", "7"))
    assert error.value.retry_after_s == 7


def test_response_that_is_too_large_is_not_retried() -> None:
    with pytest.raises(grpc.aio.AioRpcError), translated_errors():
        raise exhausted()


def all_pages(index: SearchIndex, order: ItemOrder, size: int, where: Condition = ANY_ITEM) -> list[Item]:
    """Return the items of all pages of an ordered listing."""
    found: list[Item] = []
    after: OrderedAfter | None = None
    for _ in range(200):
        page, after = index.ordered_items(VERSION, where, order, size, after)
        assert len(page) <= size
        found += page
        if after is None:
            return found
        assert len(page) == size
    raise AssertionError("the listing never ends")


@pytest.mark.parametrize("size", [1, 7, 50, 149, 150, 1000])
@pytest.mark.parametrize("key", ["time", "score"])
@pytest.mark.parametrize("descending", [False, True])
def test_ordered_pages_have_each_item_once(
    index: SearchIndex, key: Literal["time", "score"], descending: bool, size: int
) -> None:
    found = all_pages(index, ItemOrder(key, descending), size)
    expected = sorted(items(150), key=lambda item: item.score, reverse=descending)
    assert [item.score for item in found] == [item.score for item in expected]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("descending", [False, True])
def test_items_of_equal_value_are_listed_once_each(descending: bool, size: int) -> None:
    index = filled_index(in_memory_qdrant())
    tied = [replace(item, score=float(number // 4), time=NOON) for number, item in enumerate(items(30))]
    index.put(VERSION, tied, vectors(30))
    recent = equals("score", 3.0), equals("score", 5.0)
    for key in ("time", "score"):
        found = all_pages(index, ItemOrder(key, descending), size, any_of(recent))
        assert len(found) == 8
        assert {item.id for item in found} == {item.id for item in tied if item.score in (3, 5)}
        values = [item.score if key == "score" else 0 for item in found]
        assert values == sorted(values, reverse=descending)


def test_items_without_a_time_come_last() -> None:
    client = in_memory_qdrant()
    index = filled_index(client)
    unknown: list[Any] = [str(item.id) for item in items(150)[:9]]
    client.delete_payload(published_alias(VERSION), ["time"], points=unknown)
    for descending in (False, True):
        for size in (4, 141, 150):
            found = all_pages(index, ItemOrder("time", descending), size)
            assert len({item.id for item in found}) == 150
            assert {str(item.id) for item in found[-9:]} == set(unknown)


def test_short_name_is_resolved_to_its_only_item(index: SearchIndex) -> None:
    wanted = items(150)[17].id
    for name in (str(wanted), str(wanted).upper(), wanted.hex[:12], str(wanted)[:18], wanted.hex[:31]):
        assert index.resolve_item(VERSION, f"items/{name}") == wanted
    newest = max(items(150), key=lambda item: item.time)
    assert index.resolve_item(VERSION, "items/latest") == newest.id


def test_name_from_the_index_of_another_version_is_resolved(index: SearchIndex) -> None:
    before, left_out = items(4)[0], items(4)[3]
    again = [replace(each, id=item_id(NEXT, each.sha256)) for each in items(3)]
    index.prepare(NEXT, 8)
    index.put(NEXT, again, vectors(3))
    index.publish(NEXT)
    for name in (str(before.id), before.id.hex[:12]):
        assert index.resolve_item(NEXT, f"items/{name}") == again[0].id
        assert index.resolve_item(VERSION, f"items/{name}") == before.id
    assert index.resolve_item(VERSION, f"items/{again[1].id}") == items(2)[1].id
    assert index.resolve_item(NEXT, f"items/{left_out.id}") == left_out.id  # which NEXT has not
    with pytest.raises(NotFound, match="has no item"):
        index.resolve_item(NEXT, f"items/{left_out.id.hex[:12]}")


def test_short_name_that_fits_none_or_several_items_is_rejected() -> None:
    index = filled_index(in_memory_qdrant())
    twins = [
        replace(item, id=UUID(f"abcdef0{digit}-0000-4000-8000-000000000000"))
        for item, digit in zip(items(3), "123", strict=True)
    ]
    index.put(VERSION, twins, vectors(3))
    with pytest.raises(InvalidRequest, match="items/abcdef0 fits several items; write more") as rejected:
        index.resolve_item(VERSION, "items/abcdef0", "like")
    assert rejected.value.field == "like"
    assert index.resolve_item(VERSION, "items/abcdef02") == twins[1].id
    with pytest.raises(NotFound, match="has no item items/abcdef04"):
        index.resolve_item(VERSION, "items/abcdef04")
    with pytest.raises(NotFound, match="has no item items/ffffffffffff"):
        index.resolve_item(VERSION, "items/ffffffffffff")
    for name in ("items/abc", "items/xyz12345", "items/", "abcdef02", "items/newest", "items/*"):
        with pytest.raises(InvalidRequest, match="is not an item"):
            index.resolve_item(VERSION, name)
