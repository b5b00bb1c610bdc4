# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from PIL import Image

from blemish.v1.image_pb2 import DefectRegion, Point
from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.model_pb2 import Model
from blemish.v1.search_pb2 import Hit, Hits, ListItemsResponse, SearchPage, SearchResponse
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_client.search import SearchResults
from blemish_client.types.stored_image import StoredImage
from blemish_console.data import search
from blemish_console.data.search import ImageQuery, UnusableImage
from blemish_console.drawing.shapes import Layer, Shape, Sketch, Tool


@pytest.mark.parametrize(
    ("where", "name", "condition", "changed"),
    [
        ("", "class", 'class = "cut"', 'class = "cut"'),
        ("class = cut AND score > 3", "class", "", "score > 3"),
        (
            "class = cut OR class = fold AND score > 3",
            "class",
            'class = "oil"',
            'score > 3 AND class = "oil"',
        ),
        ("class = cut OR score > 3", "class", "class = a", "class = cut OR score > 3 AND class = a"),
        ("label_class = cut", "label", "label = good", "label_class = cut AND label = good"),
        ("(class = cut AND score > 3)", "class", "", "(class = cut AND score > 3)"),
        ('name = "a AND class = b"', "class", "", 'name = "a AND class = b"'),
        ("NOT class = cut", "class", "", ""),
        ('name = "unfinished', "class", "class = a", 'name = "unfinished AND class = a'),
        (") AND (", "class", "class = a", ") AND ( AND class = a"),
    ],
)
def test_picker_replaces_only_the_conditions_of_its_field(
    where: str, name: str, condition: str, changed: str
) -> None:
    assert search.with_condition(where, name, condition) == changed


@pytest.mark.parametrize("value", ["crack", 'a "b" AND c', "back\\slash", "ünï (code)"])
def test_value_of_a_picker_is_read_back_from_the_text(value: str) -> None:
    where = search.with_condition("score > 3", "class", f"class = {search.quoted(value)}")
    assert search.chosen_value(where, "class") == value


@pytest.mark.parametrize("where", ["class != a", "class = a AND class = b", "class = a OR class = b"])
def test_picker_shows_no_value_for_a_filter_that_does_not_require_one(where: str) -> None:
    assert search.chosen_value(where, "class") == ""


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_picture_of_an_upload_is_smaller_and_has_the_size_of_the_image() -> None:
    picture = search.read_upload(_png(2048, 512), 0, 0)
    assert (picture.width, picture.height) == (2048, 512)
    assert picture.shown_size == (1024, 256)


@pytest.mark.parametrize(
    ("content", "max_bytes", "max_pixels", "cause"),
    [
        (b"GIF", 0, 0, "cannot be read as an image"),
        (_png(64, 64)[:60], 0, 0, "cannot be read as an image"),
        (_png(64, 64), 10, 0, "the limit is 10;"),
        (_png(64, 64), 0, 4095, "4,096 pixels, the limit is 4,095;"),
    ],
)
def test_upload_that_the_server_would_not_take_is_refused(
    content: bytes, max_bytes: int, max_pixels: int, cause: str
) -> None:
    with pytest.raises(UnusableImage, match=cause):
        search.read_upload(content, max_bytes, max_pixels)


def _query_of(*shapes: Shape) -> ImageQuery:
    sketch = Sketch(200, 100)
    for shape in shapes:
        sketch.add(shape)
    return search.part_of(ImageQuery("tile", item="items/1"), sketch)


def test_lone_box_is_searched_for_as_a_box() -> None:
    query = _query_of(Shape(Tool.BOX, ((20, 40), (60, 90)), Layer.PART))
    assert (query.box, query.mask) == ((20, 40, 40, 50), b"")


@pytest.mark.parametrize(
    "shapes",
    [
        [Shape(Tool.POLYGON, ((20, 40), (60, 40), (60, 90), (20, 90)), Layer.PART)],
        [
            Shape(Tool.BOX, ((20, 40), (60, 60)), Layer.PART),
            Shape(Tool.BOX, ((20, 60), (60, 90)), Layer.PART),
        ],
    ],
)
def test_other_drawings_are_searched_for_as_a_mask(shapes: list[Shape]) -> None:
    query = _query_of(*shapes)
    assert query.box is None
    with Image.open(io.BytesIO(query.mask)) as mask:
        assert mask.size == (200, 100)
        assert mask.getbbox() == (20, 40, 60, 90)


def test_erased_drawing_is_a_search_for_the_whole_image() -> None:
    query = _query_of(
        Shape(Tool.BOX, ((20, 40), (60, 90)), Layer.PART),
        Shape(Tool.BOX, ((0, 0), (200, 100)), Layer.PART, erases=True),
    )
    assert (query.box, query.mask) == (None, b"")
    query = _query_of(Shape(Tool.BOX, ((20, 40), (60, 90)), Layer.PART, erases=True))
    assert (query.box, query.mask) == (None, b"")


class _Searchable:
    """A client with an index in memory."""

    def __init__(self, items: list[Hit] | None = None) -> None:
        self._items = items
        self.sent = 0
        self.options: dict[str, Any] = {}

    def models(self) -> Iterator[Model]:
        yield Model(name="models/tile")

    def items_page(self, model: str, **options: object) -> ListItemsResponse:
        if self._items is None:
            raise NotFound("no index", code=grpc.StatusCode.NOT_FOUND)
        return ListItemsResponse(items=self._items, total_size=5000)

    def search(self, query: object, model: str, limit: int, **options: Any) -> SearchResults:
        self.options = {"query": query, **options}
        return SearchResults(self._answers())

    def _answers(self) -> Iterator[SearchResponse]:
        yield SearchResponse(query=Inspection(score=2))
        for item in self._items or ():
            self.sent += 1
            yield SearchResponse(hits=Hits(hits=[item]))
        yield SearchResponse(page=SearchPage(unseen=3))


def test_pickers_offer_the_classes_and_cameras_of_the_latest_items() -> None:
    items = [Hit(class_name="oil"), Hit(camera="line-3"), Hit(class_name="crack"), Hit(class_name="oil")]
    index = search.read_index(cast(Client, _Searchable(items)), "tile")
    assert index == search.IndexContents(5000, ["crack", "oil"], ["line-3"])


def test_model_without_an_index_is_empty_and_an_unknown_one_is_an_error() -> None:
    client = cast(Client, _Searchable())
    assert search.read_index(client, "tile/1") == search.IndexContents(0)
    with pytest.raises(NotFound):
        search.read_index(client, "other")


def test_hits_are_passed_on_as_they_come() -> None:
    client = _Searchable([Hit(item="items/1"), Hit(item="items/2")])
    seen: list[tuple[str, int]] = []
    query = ImageQuery("tile", b"image", box=(1, 2, 3, 4), where="score > 3")
    found = search.read_hits(
        cast(Client, client), query, lambda hit: seen.append((hit.item, client.sent)), lambda: False
    )
    assert seen == [("items/1", 1), ("items/2", 2)]
    assert client.options == {"query": b"image", "region": (1, 2, 3, 4), "where": "score > 3"}
    assert (found.count, found.unseen, found.inspection) == (2, 3, Inspection(score=2))


def test_mask_is_sent_in_place_of_a_box() -> None:
    client = _Searchable()
    query = ImageQuery("tile", b"image", mask=b"png")
    search.read_hits(cast(Client, client), query, lambda hit: None, lambda: False)
    assert client.options == {"query": b"image", "mask": b"png", "where": ""}


def test_regions_are_drawn_at_the_size_of_the_image_without_texts() -> None:
    class Items:
        def item(self, name: str, model: str) -> Hit:
            contour = [Point(x=1, y=2), Point(x=9, y=2), Point(x=5, y=8)]
            return Hit(item=name, name="<script>", regions=[DefectRegion(contour=contour)])

        def item_image(self, item: str, model: str, **options: object) -> StoredImage:
            return StoredImage(b"", "image/jpeg", 0, "", 300, 200)

    svg = search.regions_svg(cast(Client, Items()), "items/1", "tile")
    assert 'viewBox="0 0 300 200"' in svg
    assert 'points="1.5,2.5 9.5,2.5 5.5,8.5"' in svg
    assert "script" not in svg


def test_replaced_search_reads_no_further_hits() -> None:
    client = _Searchable([Hit(), Hit(), Hit()])
    found = search.read_hits(
        cast(Client, client), ImageQuery("tile", item="1"), lambda hit: None, lambda: True
    )
    assert (found.count, client.sent) == (0, 1)
