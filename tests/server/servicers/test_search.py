# SPDX-License-Identifier: Apache-2.0
"""Kept frames by name and in order, and their images."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.kept_frames import KeptFrames, frame_picture, kept_frames

from blemish.v1 import search_pb2 as pb
from blemish.v1.image_pb2 import (
    RENDITION_MAP,
    RENDITION_ORIGINAL,
    RENDITION_THUMBNAIL,
    ImageFile,
    Rendition,
)
from blemish_core.platform.errors import Conflict, Corrupt, InvalidRequest, NotFound, Overloaded
from blemish_server.transport.pagination import Page

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

MODEL = "models/tile"


@pytest.fixture
def kept(tmp_path: Path) -> KeptFrames:
    return kept_frames(tmp_path)


async def image_of(
    kept: KeptFrames,
    item: str,
    rendition: Rendition.ValueType = RENDITION_ORIGINAL,
    *,
    max_side: int = 0,
    read_offset: int = 0,
    read_limit: int = 0,
) -> tuple[ImageFile, bytes]:
    """Return the description and the bytes that a call answers with."""
    request = pb.GetItemImageRequest(
        model=MODEL,
        item=item,
        rendition=rendition,
        max_side=max_side,
        read_offset=read_offset,
        read_limit=read_limit,
    )
    first, *rest = [answer async for answer in kept.servicer.GetItemImage(request, kept.context)]
    assert first.WhichOneof("part") == "file"
    assert all(0 < len(answer.chunk) <= 256 << 10 for answer in rest)
    return first.file, b"".join(answer.chunk for answer in rest)


def name(kept: KeptFrames, number: int, digits: int = 36) -> str:
    return f"items/{str(kept.items[number].id)[:digits]}"


async def listed(kept: KeptFrames, order_by: str, page_size: int, where: str = "") -> list[str]:
    found, token = [], ""
    for call in range(20):
        request = pb.ListItemsRequest(
            model=MODEL, where=where, order_by=order_by, page_size=page_size, page_token=token
        )
        answer = await kept.servicer.ListItems(request, kept.context)
        total = await kept.servicer.ListItems(pb.ListItemsRequest(model=MODEL, where=where), kept.context)
        assert answer.total_size == (0 if call else total.total_size)
        found += [hit.item for hit in answer.items]
        token = answer.next_page_token
        if not token:
            return found
    raise AssertionError("the listing never ends")


@pytest.mark.parametrize("page_size", [1, 2, 6, 100])
@pytest.mark.parametrize("field", ["time", "score"])
async def test_items_are_listed_in_the_requested_order(
    kept: KeptFrames, field: str, page_size: int
) -> None:
    names = [name(kept, number) for number in range(6)]
    assert await listed(kept, field, page_size) == names
    assert await listed(kept, f"{field} desc", page_size) == names[::-1]
    assert await listed(kept, f"{field}  desc", page_size, "verdict = anomalous") == [names[5], names[2]]
    assert sorted(await listed(kept, "", page_size)) == sorted(names)


@pytest.mark.parametrize("order", ["camera", "time up", "time desc desc", "time, score", "desc"])
async def test_unknown_order_is_rejected(kept: KeptFrames, order: str) -> None:
    with pytest.raises(InvalidRequest, match="use time, time desc, score or score desc") as rejected:
        await listed(kept, order, 2)
    assert rejected.value.field == "order_by"


@pytest.mark.parametrize("place", ["", "x", "1.0", "1.0|", "|", "soon|{id}", "1e999x|{id}", "1.0|{id}|2"])
@pytest.mark.parametrize("order", ["time", "score"])
async def test_foreign_token_of_an_ordered_listing_is_rejected(
    kept: KeptFrames, order: str, place: str
) -> None:
    for kind in (f"items-{order}-False", "items", "items-time-True"):
        token = Page.parse(kind, 1, "").token(place.format(id=kept.items[0].id))
        if kind == f"items-{order}-False" and not place:
            continue  # the token of a first page
        request = pb.ListItemsRequest(model=MODEL, order_by=order, page_token=token)
        with pytest.raises(InvalidRequest, match="not a token of this listing"):
            await kept.servicer.ListItems(request, kept.context)


async def test_original_is_returned_as_received(kept: KeptFrames) -> None:
    for number in range(6):
        for item in (name(kept, number), name(kept, number, 8)):
            file, data = await image_of(kept, item)
            assert data == kept.contents[number]
            assert file.sha256 == hashlib.sha256(data).digest()
            assert (file.media_type, file.size_bytes) == ("image/png", len(data))
            assert (file.width, file.height) == (48, 32)
    assert (await image_of(kept, "items/latest"))[1] == kept.contents[5]


async def test_large_frame_is_sent_in_many_messages(tmp_path: Path) -> None:
    kept = kept_frames(tmp_path, 1)
    large = frame_picture(9, size=(1000, 800), kind="BMP")
    stored = tmp_path / "frames" / "tile" / kept.items[0].sha256[:2] / kept.items[0].sha256
    stored.write_bytes(large)
    file, data = await image_of(kept, "items/latest")
    assert data == large
    assert (file.media_type, file.size_bytes) == ("image/bmp", 2_400_054)


@pytest.mark.parametrize(("offset", "limit"), [(0, 10), (7, 1), (100, 0), (100, 1 << 40)])
async def test_range_of_the_original(kept: KeptFrames, offset: int, limit: int) -> None:
    file, data = await image_of(kept, name(kept, 1), read_offset=offset, read_limit=limit)
    assert data == kept.contents[1][offset : offset + limit if limit else None]
    assert file.size_bytes == len(kept.contents[1])
    assert file.sha256 == hashlib.sha256(kept.contents[1]).digest()


async def test_range_at_the_end_is_empty_and_beyond_it_rejected(kept: KeptFrames) -> None:
    size = len(kept.contents[1])
    assert (await image_of(kept, name(kept, 1), read_offset=size))[1] == b""
    with pytest.raises(InvalidRequest, match=f"the file has {size} bytes; start within it") as rejected:
        await image_of(kept, name(kept, 1), read_offset=size + 1)
    assert rejected.value.field == "read_offset"


@pytest.mark.parametrize(
    ("field", "value", "rendition"),
    [
        ("max_side", 15, RENDITION_THUMBNAIL),
        ("max_side", 2049, RENDITION_THUMBNAIL),
        ("max_side", -1, RENDITION_THUMBNAIL),
        ("read_offset", -1, RENDITION_ORIGINAL),
        ("read_limit", -1, RENDITION_ORIGINAL),
        ("read_limit", 5, RENDITION_THUMBNAIL),
        ("read_offset", 5, RENDITION_MAP),
        ("rendition", 77, 77),
    ],
)
async def test_value_out_of_range_is_rejected(
    kept: KeptFrames, field: str, value: int, rendition: Rendition.ValueType
) -> None:
    options = {} if field == "rendition" else {field: value}
    with pytest.raises(InvalidRequest) as rejected:
        await image_of(kept, name(kept, 1), rendition, **options)
    assert rejected.value.field == field


async def test_thumbnail_is_a_small_jpeg(kept: KeptFrames) -> None:
    file, data = await image_of(kept, name(kept, 1), RENDITION_THUMBNAIL, max_side=24)
    with Image.open(BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (24, 16))
    assert (file.media_type, file.size_bytes) == ("image/jpeg", len(data))
    assert (file.width, file.height) == (48, 32), "of the original, which regions refer to"


async def test_map_is_computed_with_the_version_of_the_index(kept: KeptFrames) -> None:
    file, data = await image_of(kept, name(kept, 4, 13), RENDITION_MAP)
    values = np.frombuffer(data, "<f4").reshape(file.anomaly_map.height, file.anomaly_map.width)
    assert values.shape == (4, 4)
    assert (file.width, file.height) == (64, 64)
    (scored,) = kept.scorer.requests
    assert str(scored.model) == "models/tile/versions/1"
    assert scored.claim().image.data == kept.contents[4]


async def test_map_is_refused_while_the_queue_is_full(kept: KeptFrames) -> None:
    kept.scorer.error = Overloaded("the queue is full")
    with pytest.raises(Overloaded):
        await image_of(kept, name(kept, 4), RENDITION_MAP)
    assert (await image_of(kept, name(kept, 4)))[1] == kept.contents[4], "the original needs no queue"


async def test_item_without_image_is_not_found(kept: KeptFrames) -> None:
    kept.frames.remove("tile", kept.items[2].sha256)
    with pytest.raises(NotFound, match="retention may have removed it"):
        await image_of(kept, name(kept, 2))
    with pytest.raises(NotFound, match="has no item"):
        await image_of(kept, "items/00000000-0000-4000-8000-000000000000")
    for malformed in ("", "items/..", "items/../../x", "latest", "items/abc"):
        with pytest.raises(InvalidRequest, match="is not an item"):
            await image_of(kept, malformed)


async def test_damaged_image_has_no_thumbnail_but_its_bytes(kept: KeptFrames, tmp_path: Path) -> None:
    sha256 = kept.items[3].sha256
    (tmp_path / "frames" / "tile" / sha256[:2] / sha256).write_bytes(b"damaged")
    file, data = await image_of(kept, name(kept, 3))
    assert (data, file.media_type, file.width) == (b"damaged", "application/octet-stream", 0)
    with pytest.raises(Corrupt, match="cannot be drawn"):
        await image_of(kept, name(kept, 3), RENDITION_THUMBNAIL)


async def test_short_names_are_accepted_wherever_an_item_is_named(kept: KeptFrames) -> None:
    labelled = await kept.servicer.LabelItem(
        pb.LabelItemRequest(model=MODEL, item=name(kept, 5, 9), label=pb.LABEL_GOOD), kept.context
    )
    assert labelled.item.item == name(kept, 5)
    request = pb.SearchRequest(model=MODEL, item="items/latest", limit=3)
    request.like.append(name(kept, 1, 8))
    request.unlike.append(name(kept, 0, 8))
    answers = [answer async for answer in kept.servicer.Search(request, kept.context)]
    found = {answer.hit.item for answer in answers if answer.HasField("hit")}
    assert len(found) == 3
    assert not found & {name(kept, 5), name(kept, 1), name(kept, 0)}
    for field in ("item", "like", "unlike"):
        broken = pb.SearchRequest(model=MODEL, item="items/latest")
        value = "items/nonsense"
        setattr(broken, field, value) if field == "item" else getattr(broken, field).append(value)
        with pytest.raises(InvalidRequest) as rejected:
            _ = [answer async for answer in kept.servicer.Search(broken, kept.context)]
        assert rejected.value.field == field


async def test_label_is_set_only_on_an_item_with_the_expected_label(kept: KeptFrames) -> None:
    item = name(kept, 0)

    async def label(new: pb.Label.ValueType, label_class: str = "", **expected: Any) -> pb.Hit:
        request = pb.LabelItemRequest(
            model=MODEL, item=item, label=new, label_class=label_class, **expected
        )
        return (await kept.servicer.LabelItem(request, kept.context)).item

    unlabelled: dict[str, Any] = {"expected_label": pb.LABEL_NONE}
    crack: dict[str, Any] = {"expected_label": pb.LABEL_CONFIRMED, "expected_label_class": "crack"}
    await label(pb.LABEL_CONFIRMED, "crack", **unlabelled)
    await label(pb.LABEL_CONFIRMED, "crack", **unlabelled)  # a repeated call changes nothing
    with pytest.raises(Conflict, match=f"{item} is labelled confirmed crack by now; read it again"):
        await label(pb.LABEL_GOOD, **unlabelled)
    with pytest.raises(Conflict, match="is labelled confirmed crack by now"):
        await label(pb.LABEL_NONE, expected_label=pb.LABEL_CONFIRMED, expected_label_class="oil")
    removed = await label(pb.LABEL_NONE, **crack)
    assert (removed.label, removed.label_class) == (pb.LABEL_UNSPECIFIED, "")
    with pytest.raises(Conflict, match="is not labelled by now"):
        await label(pb.LABEL_GOOD, **crack)
    assert (await label(pb.LABEL_GOOD)).label == pb.LABEL_GOOD


async def test_expected_label_has_a_class_only_if_it_is_confirmed(kept: KeptFrames) -> None:
    request = pb.LabelItemRequest(
        model=MODEL,
        item=name(kept, 0),
        label=pb.LABEL_GOOD,
        expected_label=pb.LABEL_NONE,
        expected_label_class="crack",
    )
    with pytest.raises(InvalidRequest, match="expected_label_class is set"):
        await kept.servicer.LabelItem(request, kept.context)


async def test_one_item_is_found_by_its_name_and_its_first_digits(kept: KeptFrames) -> None:
    for digits in (36, 8):
        request = pb.GetItemRequest(model=MODEL, item=name(kept, 1, digits))
        found = (await kept.servicer.GetItem(request, kept.context)).item
        assert found.item == name(kept, 1)
        assert (found.camera, found.score) == (kept.items[1].camera, kept.items[1].score)
    newest = await kept.servicer.GetItem(pb.GetItemRequest(model=MODEL, item="items/latest"), kept.context)
    assert [newest.item.item] == await listed(kept, "time desc", 1000, f"score = {newest.item.score}")


@pytest.mark.parametrize(
    ("model", "item", "error"),
    [
        (MODEL, "items/" + "0" * 8 + "-0000-0000-0000-000000000000", NotFound),
        (MODEL, "items/00000000", NotFound),
        (MODEL, "frames/1", InvalidRequest),
        (MODEL, "", InvalidRequest),
        ("none", "items/latest", InvalidRequest),
    ],
)
async def test_missing_item_is_an_error(
    kept: KeptFrames, model: str, item: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await kept.servicer.GetItem(pb.GetItemRequest(model=model, item=item), kept.context)
