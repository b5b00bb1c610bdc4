# SPDX-License-Identifier: Apache-2.0
"""Images of datasets as the service returns them."""

import hashlib
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.support.kept_frames import VERSION, KeptFrames, OneVersion, frame_picture, kept_frames

from blemish.v1 import dataset_pb2 as pb
from blemish.v1.image_pb2 import RENDITION_MAP, RENDITION_ORIGINAL, RENDITION_THUMBNAIL, ImageFile
from blemish.v1.search_pb2 import LABEL_CONFIRMED
from blemish_core.datasets import DatasetStore, IncomingFile
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.removal import Removal
from blemish_core.platform.errors import Corrupt, InvalidRequest, NotFound
from blemish_core.search.dataset_additions import DatasetAdditions
from blemish_core.search.item import Label
from blemish_core.search.item_images import ItemImages
from blemish_server.auth.access import Caller, Role
from blemish_server.auth.authenticator import current_caller
from blemish_server.servicers.datasets import DatasetServicer

LIMITS = ImageLimits()
CONTEXT: Any = None

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture
def kept(tmp_path: Path) -> KeptFrames:
    return kept_frames(tmp_path)


@pytest.fixture
def datasets(kept: KeptFrames) -> DatasetStore:
    kept.datasets.create("tile", "")
    return kept.datasets


class UnusedIndexes:
    """Takes the entries of moved images."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, list[str], str]] = []

    def before_moving(self, dataset_id: str, paths: list[str], folder: str) -> None:
        self.moved.append((dataset_id, paths, folder))


@pytest.fixture
def servicer(kept: KeptFrames, datasets: DatasetStore, tmp_path: Path) -> DatasetServicer:
    additions = DatasetAdditions(datasets, kept.index, ItemImages(datasets, kept.frames), LIMITS)
    return DatasetServicer(
        datasets,
        cast(Removal, UnusedIndexes()),
        (),
        LIMITS,
        OneVersion(tmp_path / "models"),
        kept.index,
        additions,
    )


async def image_of(servicer: DatasetServicer, path: str, **options: int) -> tuple[ImageFile, bytes]:
    request = pb.GetImageRequest(dataset="datasets/tile", path=path)
    for name, value in options.items():
        setattr(request, name, value)
    first, *rest = [answer async for answer in servicer.GetImage(request, CONTEXT)]
    return first.file, b"".join(answer.chunk for answer in rest)


async def test_image_is_returned_by_its_path_and_its_original_path(
    datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    data, other = frame_picture(1), frame_picture(2, size=(900, 700), kind="BMP")
    datasets.add("tile", "train/good/0.png", data)
    datasets.put("tile", IncomingFile("test/crack/Teil 7 (neu).bmp", other))
    file, content = await image_of(servicer, "train/good/0.png")
    assert content == data
    assert (file.media_type, file.width, file.height) == ("image/png", 48, 32)
    assert file.sha256 == hashlib.sha256(data).digest()
    assert (await image_of(servicer, "test/crack/Teil 7 (neu).bmp"))[1] == other
    for rendition in (0, RENDITION_ORIGINAL):
        assert (
            await image_of(servicer, "train/good/0.png", rendition=rendition, read_offset=5, read_limit=9)
        )[1] == data[5:14]


async def test_mask_is_returned(datasets: DatasetStore, servicer: DatasetServicer) -> None:
    out = BytesIO()
    Image.new("L", (48, 32), 255).save(out, "PNG")
    datasets.add("tile", "test/crack/0.png", frame_picture(1))
    datasets.add("tile", "ground_truth/crack/0_mask.png", out.getvalue())
    assert (await image_of(servicer, "ground_truth/crack/0_mask.png"))[1] == out.getvalue()
    assert (await image_of(servicer, "test/crack/0.png"))[1] == frame_picture(1)


async def test_thumbnail_has_the_white_level_of_the_dataset(
    datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    out = BytesIO()
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(out, "PNG")
    datasets.add("tile", "train/good/0.png", out.getvalue())
    datasets.set_white_level("tile", 4095)
    _, content = await image_of(servicer, "train/good/0.png", rendition=RENDITION_THUMBNAIL, max_side=32)
    with Image.open(BytesIO(content)) as picture:
        assert picture.size == (32, 32)
        assert np.asarray(picture).mean() == pytest.approx(255 * 4000 / 4095, abs=3)


async def test_missing_and_damaged_images(
    datasets: DatasetStore, servicer: DatasetServicer, tmp_path: Path
) -> None:
    datasets.add("tile", "train/good/0.png", frame_picture(1))
    with pytest.raises(NotFound):
        await image_of(servicer, "train/good/1.png")
    for path in ("", "../x.png", "/etc/passwd", "train/good/../../dataset.json"):
        with pytest.raises(InvalidRequest):
            await image_of(servicer, path)
    with pytest.raises(InvalidRequest, match="no anomaly map; index the dataset") as rejected:
        await image_of(servicer, "train/good/0.png", rendition=RENDITION_MAP)
    assert rejected.value.field == "rendition"
    (tmp_path / "datasets/tile/train/good/0.png").write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        await image_of(servicer, "train/good/0.png")


def label(kept: KeptFrames, number: int, label: Label, label_class: str = "") -> None:
    kept.index.label(VERSION, [kept.items[number].id], label, label_class)


async def test_images_move_after_their_index_entries_were_deleted(
    kept: KeptFrames, datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    datasets.add("tile", "train/good/0.png", frame_picture(0))
    datasets.add("tile", "ground_truth/crack/7_mask.png", frame_picture(1))
    request = pb.MoveImagesRequest(dataset="datasets/tile", paths=["train/good/0.png"], folder="test/crack")
    answer = await servicer.MoveImages(request, CONTEXT)
    assert [(each.path, each.new_path) for each in answer.images] == [
        ("train/good/0.png", "test/crack/0.png")
    ]
    assert (answer.dataset.train_images, answer.deleted_masks) == (0, 0)
    found = await servicer.GetDataset(pb.GetDatasetRequest(name="datasets/tile"), CONTEXT)
    assert list(found.unpaired.masks) == ["ground_truth/crack/7_mask.png"]
    for paths in ([], ["train/good/0.png"] * 1001):
        with pytest.raises(InvalidRequest):
            await servicer.MoveImages(pb.MoveImagesRequest(dataset="datasets/tile", paths=paths), CONTEXT)


async def add(servicer: DatasetServicer, items: list[str], **options: str) -> pb.AddItemsResponse:
    request = pb.AddItemsRequest(
        dataset="datasets/tile", model="models/tile", items=items, **{"split": "test", **options}
    )
    return await servicer.AddItems(request, CONTEXT)


def names(kept: KeptFrames) -> list[str]:
    return [f"items/{item.id.hex[:10]}" for item in kept.items]


async def test_labelled_items_become_test_images_of_their_class(
    kept: KeptFrames, datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    label(kept, 0, Label.GOOD)
    label(kept, 1, Label.FALSE_ALARM)
    label(kept, 2, Label.CONFIRMED, "scratch")
    label(kept, 3, Label.CONFIRMED, "Kratzer, tief/neu")
    label(kept, 4, Label.CONFIRMED)
    answer = await add(servicer, names(kept), author="maria")
    classes = [Path(each.path).parent.as_posix() for each in answer.items]
    assert classes[:5] == ["test/good", "test/good", "test/scratch", "test/Kratzer_tief_neu", "test/defect"]
    left = answer.items[5]
    assert (left.outcome, left.path) == (pb.ADDED_OUTCOME_LEFT_OUT, "")
    assert left.reason.startswith("it has no label; label it, or give a class")
    assert [each.item for each in answer.items] == [f"items/{item.id}" for item in kept.items]
    assert answer.dataset.test_images
    for added, content in zip(answer.items[:5], kept.contents, strict=False):
        assert datasets.read_path("tile", added.path) == content
    assert Path(answer.items[1].path).name == f"line-2_20261201T220100Z_{kept.items[1].id.hex[:8]}.png"


async def test_origin_of_an_added_image_is_recorded_and_listed(
    kept: KeptFrames, datasets: DatasetStore, servicer: DatasetServicer, tmp_path: Path
) -> None:
    label(kept, 3, Label.CONFIRMED, "scratch")
    datasets.add("tile", "train/good/0.png", frame_picture(77))
    token = current_caller.set(Caller("line-office", Role.OPERATOR))
    await add(servicer, names(kept)[3:4], author="maria")
    current_caller.reset(token)
    again = DatasetStore(tmp_path / "datasets", LIMITS)  # as another process reads it
    (entry,) = [entry for entry in again.entries("tile") if entry.provenance]
    listed = await servicer.ListImages(pb.ListImagesRequest(dataset="datasets/tile"), CONTEXT)
    origins = {image.path: image.provenance for image in listed.images if image.HasField("provenance")}
    assert list(origins) == [entry.path]
    origin = origins[entry.path]
    assert (origin.item, origin.model) == (f"items/{kept.items[3].id}", "models/tile/versions/1")
    assert (origin.camera, origin.label, origin.label_class) == ("line 2", LABEL_CONFIRMED, "scratch")
    assert origin.time.ToDatetime(UTC) == kept.items[3].time
    assert (origin.author, origin.score) == ("maria", 3.0)
    assert origin.caller == "line-office"
    assert abs(datetime.now(UTC) - origin.add_time.ToDatetime(UTC)) < timedelta(minutes=1)


async def test_only_good_images_are_added_to_training(kept: KeptFrames, servicer: DatasetServicer) -> None:
    label(kept, 0, Label.FALSE_ALARM)
    label(kept, 1, Label.CONFIRMED, "scratch")
    answer = await add(servicer, names(kept)[:2], split="train")
    assert answer.items[0].path.startswith("train/good/")
    assert answer.items[1].reason == ("a defect cannot be a training image; add it to the test images")
    assert answer.dataset.train_images == 1


async def test_items_without_a_label_need_a_class(kept: KeptFrames, servicer: DatasetServicer) -> None:
    for unlabelled, folder, split in (("good", "train/good", "train"), ("dent", "test/dent", "test")):
        number = {"good": 4, "dent": 5}[unlabelled]
        answer = await add(servicer, [names(kept)[number]], split=split, unlabelled_class=unlabelled)
        assert Path(answer.items[0].path).parent.as_posix() == folder


async def test_equal_content_is_recognised_wherever_the_dataset_has_it(
    kept: KeptFrames, datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    for number in range(3):
        label(kept, number, Label.GOOD)
    datasets.add("tile", "train/good/known.png", kept.contents[1])
    first = await add(servicer, [*names(kept)[:2], names(kept)[0]])
    stored, known, repeated = first.items
    assert stored.outcome == pb.ADDED_OUTCOME_STORED
    assert (known.outcome, known.path) == (pb.ADDED_OUTCOME_DUPLICATE, "train/good/known.png")
    assert (repeated.outcome, repeated.path) == (pb.ADDED_OUTCOME_DUPLICATE, stored.path)
    again = await add(servicer, names(kept)[:1])
    assert again.items[0].outcome == pb.ADDED_OUTCOME_DUPLICATE
    assert len(datasets.entries("tile")) == 2


async def test_item_without_a_stored_image_is_left_out(kept: KeptFrames, servicer: DatasetServicer) -> None:
    for number in (0, 1):
        label(kept, number, Label.GOOD)
    kept.frames.remove("tile", kept.items[0].sha256)
    answer = await add(servicer, names(kept)[:2])
    assert "is not stored" in answer.items[0].reason
    assert answer.items[1].outcome == pb.ADDED_OUTCOME_STORED


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"split": "validation"}, "split"),
        ({"split": ""}, "split"),
        ({"author": "x" * 129}, "author"),
        ({"unlabelled_class": "x" * 129}, "unlabelled_class"),
    ],
)
async def test_malformed_addition_is_rejected(
    kept: KeptFrames, servicer: DatasetServicer, options: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidRequest) as rejected:
        await add(servicer, names(kept), **options)
    assert rejected.value.field == field


async def test_addition_of_unknown_items_adds_nothing(
    kept: KeptFrames, datasets: DatasetStore, servicer: DatasetServicer
) -> None:
    label(kept, 0, Label.GOOD)
    with pytest.raises(NotFound, match="has no item items/00000000"):
        await add(servicer, [names(kept)[0], "items/00000000"])
    for items in ([], ["items/x"], names(kept)[:1] * 1001):
        with pytest.raises(InvalidRequest) as rejected:
            await add(servicer, items)
        assert rejected.value.field == "items"
    assert not datasets.entries("tile")
    with pytest.raises(NotFound):
        await servicer.AddItems(
            pb.AddItemsRequest(
                dataset="datasets/none", model="models/tile", items=names(kept)[:1], split="test"
            ),
            CONTEXT,
        )
