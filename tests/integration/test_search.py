# SPDX-License-Identifier: Apache-2.0
"""Search on the real stack: filters, pages, groups, diversity, labels, vectors, refusals."""

import time
from contextlib import suppress
from io import BytesIO
from itertools import groupby
from pathlib import Path
from uuid import UUID

import grpc
import numpy as np
import pytest
from PIL import Image, ImageFilter
from tests.integration.conftest import RunningStack
from tests.support.cli import run_against

from blemish.v1 import inspection_pb2, search_pb2
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, Region
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish_client import Client, Frame
from blemish_client.errors import InvalidArgument, NotFound
from blemish_client.retrieval import evaluate

GONE = f"items/{UUID(int=7)}"


def image(stack: RunningStack, name: str) -> bytes:
    return (stack.surfaces / "tile/test" / name).read_bytes()


@pytest.fixture
def oil(client: Client, stack: RunningStack, tile_model: str) -> search_pb2.Hit:
    """Return the indexed image of an oil stain."""
    return next(iter(client.search(image(stack, "oil/000.png"), "tile", 1)))


def test_filters_select_the_expected_items(client: Client, tile_model: str, oil: search_pb2.Hit) -> None:
    everything = list(client.items("tile"))
    assert len(everything) == 14
    threshold = sorted(item.score for item in everything)[7]
    wanted = {
        item.item
        for item in everything
        if item.class_name != "good" and item.score >= threshold and item.item != oil.item
    }
    where = f"-class = good AND score >= {threshold!r} time > 2020-01-01T00:00:00Z model = {tile_model}"
    assert {hit.item for hit in client.search(oil.item, "tile", 50, where=where)} == wanted
    assert {item.item for item in client.items("tile", where="verdict = NORMAL")} == {
        item.item for item in everything if item.verdict == 1
    }
    assert list(client.search(oil.item, "tile", where="camera = line-3")) == []


def test_each_page_continues_the_one_before(client: Client, oil: search_pb2.Hit) -> None:
    whole = [hit.item for hit in client.search(oil.item, "tile", 13)]
    found, token = list[str](), ""
    for size in (5, 5, 3):
        page = client.search(oil.item, "tile", size, page_token=token)
        found += [hit.item for hit in page]
        token = page.next_page_token
        assert token
    assert found == whole
    last = client.search(oil.item, "tile", 5, page_token=token)
    assert (list(last), last.next_page_token) == ([], "")
    with pytest.raises(InvalidArgument, match="page_token"):
        client.search(found[3], "tile", 5, page_token=token)


def test_hits_are_packed_only_on_request(stack: RunningStack, oil: search_pb2.Hit) -> None:
    request = search_pb2.SearchRequest(model="models/tile", item=oil.item, limit=5)
    packed = search_pb2.SearchRequest()
    packed.CopyFrom(request)
    packed.packed = True
    with grpc.insecure_channel(stack.address) as channel:
        stub = SearchServiceStub(channel)
        single = list(stub.Search(request, timeout=20))
        together = list(stub.Search(packed, timeout=20))
    assert [answer.WhichOneof("event") for answer in single] == ["hit"] * 5 + ["page"]
    assert [answer.WhichOneof("event") for answer in together] == ["hits", "page"]
    assert list(together[0].hits.hits) == [answer.hit for answer in single[:5]]
    assert together[1] == single[5], "a page goes on either way"


def test_groups_are_ordered_by_their_best_hit(client: Client, oil: search_pb2.Hit) -> None:
    hits = list(client.search(oil.item, "tile", 4, group_by="class", group_size=2))
    groups = [(name, list(group)) for name, group in groupby(hits, key=lambda hit: hit.group)]
    assert len({name for name, _ in groups}) == len(groups) > 2
    assert all(hit.class_name == name and len(group) <= 2 for name, group in groups for hit in group)
    best = [group[0].similarity for _, group in groups]
    assert best == sorted(best, reverse=True)
    most = list(client.search(oil.item, "tile", 1000, group_by="class", group_size=11))
    assert len(most) == 13, "as many as one search may rank are not too many"


def test_diversity_leaves_out_near_duplicates(client: Client, oil: search_pb2.Hit) -> None:
    plain = [hit.item for hit in client.search(oil.item, "tile", 5)]
    assert [hit.item for hit in client.search(oil.item, "tile", 5, diversity=0.0)] == plain
    diverse = [hit.item for hit in client.search(oil.item, "tile", 5, diversity=1.0)]
    assert len(set(diverse)) == 5
    assert set(diverse) != set(plain)


def test_embedding_finds_the_same_hits_as_its_image(
    client: Client, stack: RunningStack, tile_model: str
) -> None:
    picture = image(stack, "oil/000.png")
    embedding = client.score(picture, "tile", embedding=True).embedding
    by_image = [hit.item for hit in client.search(picture, "tile", 5)]
    assert [hit.item for hit in client.search(list(embedding), "tile", 5)] == by_image
    assert [hit.item for hit in client.search(list(embedding), "tile", 5, exact=True)] == by_image


def test_labels_can_be_filtered_and_searched(client: Client, oil: search_pb2.Hit) -> None:
    cracks = list(client.items("tile", where="class = crack"))
    good = next(item for item in client.items("tile", where="class = good"))
    assert len(cracks) >= 2
    try:
        labelled = client.label(cracks[0].item, "tile", search_pb2.LABEL_CONFIRMED, "hairline")
        assert (labelled.label, labelled.label_class) == (search_pb2.LABEL_CONFIRMED, "hairline")
        client.label(good.item, "tile", search_pb2.LABEL_FALSE_ALARM)
        assert [item.item for item in client.items("tile", where="label = FALSE_ALARM")] == [good.item]
        assert len(list(client.items("tile", where="label = NONE"))) == 12
        hits = [hit.item for hit in client.search(None, "tile", 12, labelled="hairline")]
        assert len(hits) == 12
        assert not {cracks[0].item, good.item} & set(hits)
        alarmed = [hit.item for hit in client.search(cracks[0].item, "tile", 12, unlike=[good.item])]
        assert hits == alarmed, "like the confirmed one, unlike the false alarm"
        with pytest.raises(NotFound, match="classes are: hairline"):
            client.search(None, "tile", labelled="dent")
        moved = {hit.item: hit.similarity for hit in client.search(oil.item, "tile", like=[cracks[0].item])}
        assert cracks[0].item not in moved
    finally:
        for item in (cracks[0], good):
            client.label(item.item, "tile", search_pb2.LABEL_NONE)
    assert len(list(client.items("tile", where="label = NONE"))) == 14


def test_region_search_finds_and_locates_the_same_defect(
    client: Client, stack: RunningStack, tile_model: str
) -> None:
    """The region is found even if the image shows a worse defect elsewhere."""
    crack, oil = (Image.open(BytesIO(image(stack, f"{kind}/000.png"))) for kind in ("crack", "oil"))
    masks = {kind: _mask(stack, kind) for kind in ("crack", "oil")}
    both = Image.composite(oil, crack, Image.fromarray(masks["oil"]).filter(ImageFilter.GaussianBlur(2)))
    data = BytesIO()
    both.save(data, "PNG")
    for kind, mask in masks.items():
        drawn = BytesIO()
        Image.fromarray(mask).save(drawn, "PNG")
        found = client.search(data.getvalue(), "tile", 14, mask=drawn.getvalue(), thumbnails=True)
        hits = list(found)
        assert found.query is not None
        assert len(hits) == 14
        rank = [hit.similarity + hit.match.similarity for hit in hits]
        assert rank == sorted(rank, reverse=True)
        assert hits[0].class_name == kind
        same = next(hit.match for hit in hits if hit.path == f"test/{kind}/000.png")
        assert (same.width, same.height) == (128, 128)
        heat = np.frombuffer(same.heat.values, np.uint8).reshape(same.heat.height, same.heat.width)
        assert round(same.similarity * 255) == heat.max()
        box = same.box
        assert mask[box.top : box.top + box.height, box.left : box.left + box.width].any()


def test_region_of_an_item_leaves_the_item_out(
    client: Client, stack: RunningStack, oil: search_pb2.Hit
) -> None:
    down, across = np.nonzero(_mask(stack, "oil"))
    box = (int(across.min()), int(down.min()), int(np.ptp(across)) + 1, int(np.ptp(down)) + 1)
    hits = list(client.search(oil.item, "tile", 100, region=box, where="-class = good"))
    assert len(hits) == 7
    assert oil.item not in {hit.item for hit in hits}
    assert all(hit.HasField("match") for hit in hits)


def _mask(stack: RunningStack, kind: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return the mask of the first image of a class."""
    with Image.open(stack.surfaces / f"tile/ground_truth/{kind}/000_mask.png") as mask:
        return np.asarray(mask.convert("L"))


def test_precision_over_indexed_items(client: Client, tile_model: str) -> None:
    found = evaluate(
        client.items("tile"),
        lambda item, limit, exact: list(client.search(item, "tile", limit, exact=exact)),
        lambda done, of: None,
    )
    assert (found.queries, found.defective) == (14, 8)
    assert found.sides[1] > 0.8
    assert found.recall == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (search_pb2.SearchRequest(), "contains no query"),
        (search_pb2.SearchRequest(unlike=[f"items/{UUID(int=7)}"]), "unlike alone"),
        (search_pb2.SearchRequest(vector=search_pb2.Embedding(values=[1, 2, 3])), "has 3 values"),
        (search_pb2.SearchRequest(vector=search_pb2.Embedding()), "has 0 values"),
        (search_pb2.SearchRequest(vector=search_pb2.Embedding(values=[0] * 169)), "zero or not finite"),
        (search_pb2.SearchRequest(vector=search_pb2.Embedding(values=[float("nan")] * 169)), "not finite"),
        (search_pb2.SearchRequest(where="class = "), "column 9"),
        (search_pb2.SearchRequest(where="colour = red"), "no field 'colour'"),
        (search_pb2.SearchRequest(group_by="score"), "grouped by 'score'"),
        (search_pb2.SearchRequest(group_by="class", group_size=101), "group_size is 101"),
        (search_pb2.SearchRequest(group_by="class", group_size=12, limit=1000), "12000 hits"),
        (search_pb2.SearchRequest(diversity=1.5), "diversity is 1.5"),
        (search_pb2.SearchRequest(diversity=float("nan")), "diversity is nan"),
        (search_pb2.SearchRequest(diversity=0.5, group_by="class"), "diversity cannot be combined"),
        (search_pb2.SearchRequest(labelled="crack", mask=b"x"), "mask needs an image"),
        (search_pb2.SearchRequest(mask=b"x"), "mask: this is not"),
        (search_pb2.SearchRequest(mask=bytes((2 << 20) + 1)), "that BLEMISH_MAX_IMAGE_BYTES allows"),
        (search_pb2.SearchRequest(region=Region(left=127, width=2, height=2)), "choose a region within it"),
        (search_pb2.SearchRequest(item=GONE, mask=b"x", group_by="class"), "with group_by"),
        (search_pb2.SearchRequest(item=GONE, mask=b"x", limit=101), "1 to 100"),
        (search_pb2.SearchRequest(limit=10_000_000), "limit is 10000000"),
        (search_pb2.SearchRequest(page_token="rubbish"), "page_token"),
        (search_pb2.SearchRequest(like=["tile"]), "not an item"),
    ],
)
def test_invalid_searches_are_refused(
    stack: RunningStack, oil: search_pb2.Hit, change: search_pb2.SearchRequest, words: str
) -> None:
    request = search_pb2.SearchRequest(model="models/tile")
    if not change.HasField("vector") and "query" not in words and "alone" not in words:
        request.item = oil.item
    request.MergeFrom(change)
    with grpc.insecure_channel(stack.address) as channel, pytest.raises(grpc.RpcError) as refusal:
        list(SearchServiceStub(channel).Search(request, timeout=20))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refusal.value.details() or "")


def test_stored_frames_are_found(
    client: Client, stack: RunningStack, tile_model: str, tmp_path: Path
) -> None:
    """Make a model that has no index before its first frame."""
    trained = client.wait(client.train("tile", model_id="kept", promote=True))
    assert trained.error == ""
    with pytest.raises(NotFound, match="no index yet"):
        list(client.items("kept"))
    pictures = [image(stack, f"{kind}/000.png") for kind in ("oil", "good")]
    verdicts = [
        client.score(picture, "kept", store=inspection_pb2.STORE_ANOMALOUS, camera="line-3").verdict
        for picture in pictures
    ]
    assert verdicts == [VERDICT_ANOMALOUS, VERDICT_NORMAL]
    found = wait_for_items(client, "kept", 1)
    assert [(item.camera, item.dataset, item.class_name) for item in found] == [("line-3", "", "")]
    answers = list(
        client.stream(
            [Frame(picture, name=f"/line/{number}.png") for number, picture in enumerate(pictures)],
            "kept",
            policy=inspection_pb2.STREAM_POLICY_BLOCK,
            camera="line-4",
            store=inspection_pb2.STORE_ALL,
        )
    )
    assert len(answers) == 2
    assert len(wait_for_items(client, "kept", 2)) == 2, "the same frame again is the same item"
    hits = list(client.search(pictures[1], "kept", where="source = camera", thumbnails=True))
    assert [hit.camera for hit in hits] == ["line-4", "line-3"]
    assert all(hit.thumbnail.startswith(b"\xff\xd8") for hit in hits)
    assert hits[0].similarity == pytest.approx(1, abs=1e-3)
    check_export_and_addition(client, stack, tmp_path, pictures[1])


def check_export_and_addition(client: Client, stack: RunningStack, folder: Path, frame: bytes) -> None:
    """Export the kept frame of line-4, and add it to a dataset, on the command line."""
    run, chosen = run_against(stack.address), ("-m", "kept", "--camera", "line-4")
    (item,) = client.items("kept", where="camera = line-4 AND name = 1.png")
    assert client.item(item.item[:14], "kept") == item
    assert run("items", "export", folder, *chosen).exit_code == 0
    (picture,) = folder.glob(f"line-4_*_{item.item.removeprefix('items/')}.png")
    assert picture.read_bytes() == frame
    client.create_dataset("from-line")
    client.label(item.item, "kept", search_pb2.LABEL_CONFIRMED, "scratch")
    for outcome in ("1 added, 0 there already", "0 added, 1 there already"):
        added = run("items", "add-to", "from-line", *chosen)
        assert (added.exit_code, outcome in added.stdout) == (0, True), added.stderr
    (stored,) = client.images("from-line", under="test/scratch/")
    assert stored.provenance.item == item.item


def test_searches_move_to_a_promoted_version_once_its_index_is_complete(
    client: Client, stack: RunningStack
) -> None:
    client.import_dataset("moving", str(stack.surfaces / "tile"))
    first = client.wait(client.train("moving", model_id="moving", promote=True)).result.model_version
    assert client.wait(client.embed(first, "moving")).error == ""
    (item, *_) = client.items("moving", where="class = crack")
    client.label(item.item, "moving", search_pb2.LABEL_CONFIRMED, "hairline")
    frame = (stack.surfaces / "grid/test/good/000.png").read_bytes()
    client.score(frame, "moving", store=inspection_pb2.STORE_ALL, camera="line-7")
    give_up = time.monotonic() + 20
    while not (kept := list(client.items("moving", where="camera = line-7"))):
        assert time.monotonic() < give_up, "nothing was kept"
        time.sleep(0.1)
    client.label(kept[0].item, "moving", search_pb2.LABEL_FALSE_ALARM)
    second = client.wait(
        client.train("moving", model_id="moving", seed=1, promote=True)
    ).result.model_version
    query, answered = image(stack, "crack/000.png"), set[str]()
    give_up = time.monotonic() + 60
    while second not in answered:
        assert time.monotonic() < give_up, f"only {answered} answered"
        found = client.search(query, "moving", 20)
        assert found.query is not None
        answered.add(found.query.model_version)
        assert len(list(found)) == 15, "whole before, whole after"
        time.sleep(0.2)
    assert answered <= {first, second}
    (carried,) = client.items("moving", where="label = CONFIRMED")
    assert (carried.path, carried.label_class) == (item.path, "hairline")
    assert carried.item != item.item
    (again,) = client.items("moving", where="camera = line-7")
    assert (again.label, again.time) == (search_pb2.LABEL_FALSE_ALARM, kept[0].time)
    assert again.item != kept[0].item
    brought = [job for job in client.jobs() if job.embed.model == second]
    assert sorted(job.embed.kept_frames for job in brought) == [False, True]


def test_training_uses_labelled_false_alarms(client: Client, stack: RunningStack, tile_model: str) -> None:
    client.import_dataset("grid", str(stack.surfaces / "grid"))
    trained = client.wait(client.train("tile", model_id="alarmed", promote=True))
    assert trained.error == ""
    pictures = [
        (stack.surfaces / "grid/train/good" / f"{number:03}.png").read_bytes() for number in range(5)
    ]
    for picture in pictures:
        client.score(picture, "alarmed", store=inspection_pb2.STORE_ALL, camera="line-3")
    for item in wait_for_items(client, "alarmed", 5):
        client.label(item.item, "alarmed", search_pb2.LABEL_FALSE_ALARM)
    again = client.wait(client.train("tile", model_id="alarmed", false_alarms_of="alarmed"))
    assert again.error == ""
    (learned,) = [text for text in again.warnings if "labelled" in text]
    assert learned.startswith("trained on 5 more images that were labelled")
    split = client.model(again.result.model_version).split
    before = client.model(trained.result.model_version).split
    assert split.learned == before.learned + 5
    # Two of the five grids may look like copies, and copies count once.
    assert before.held_out + 1 <= split.held_out <= before.held_out + 5
    with pytest.raises(NotFound):
        client.train("tile", model_id="alarmed", false_alarms_of="nonesuch")


def wait_for_items(client: Client, model: str, count: int) -> list[search_pb2.Hit]:
    give_up = time.monotonic() + 20
    while True:
        with suppress(NotFound):
            found = list(client.items(model))
            if len(found) >= count:
                return found
        assert time.monotonic() < give_up, "nothing was kept"
        time.sleep(0.1)


def test_invalid_labels_are_refused(client: Client, oil: search_pb2.Hit) -> None:
    with pytest.raises(InvalidArgument, match="label is 0"):
        client.label(oil.item, "tile", search_pb2.LABEL_UNSPECIFIED)
    with pytest.raises(InvalidArgument, match="only a CONFIRMED defect has a class"):
        client.label(oil.item, "tile", search_pb2.LABEL_GOOD, "crack")
    with pytest.raises(InvalidArgument, match="label_class has 129"):
        client.label(oil.item, "tile", search_pb2.LABEL_CONFIRMED, "x" * 129)
    with pytest.raises(NotFound, match="has no item"):
        client.label(f"items/{UUID(int=7)}", "tile", search_pb2.LABEL_GOOD)
