# SPDX-License-Identifier: Apache-2.0
"""Images move to another class with their masks, all of them or none."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, NotFound


def image(number: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    store = DatasetStore(tmp_path, ImageLimits())
    store.create("tile", "")
    for number in range(3):
        store.add("tile", f"train/good/{number}.png", image(number))
        store.add("tile", f"test/crack/{number}.png", image(10 + number))
    store.add("tile", "ground_truth/crack/0_mask.png", image(20))
    return store


def paths(store: DatasetStore) -> list[str]:
    return [entry.path for entry in store.entries("tile")]


def test_image_moves_with_its_content_and_its_first_path(store: DatasetStore) -> None:
    content = store.read_path("tile", "train/good/1.png")
    [move] = store.move("tile", ["train/good/1.png"], "test/hole").images
    assert move.target.path == "test/hole/1.png"
    assert store.read_path("tile", "test/hole/1.png") == content
    assert store.read_named("tile", "train/good/1.png") == content
    with pytest.raises(NotFound):
        store.read_path("tile", "train/good/1.png")
    assert store.get("tile").train_images == 2


def test_image_that_returns_has_no_other_original_path(store: DatasetStore) -> None:
    store.move("tile", ["train/good/1.png"], "test/hole")
    store.move("tile", ["test/hole/1.png"], "train/good")
    assert [entry.original for entry in store.entries("tile", "train/")] == ["", "", ""]


def test_upload_of_the_same_folder_does_not_bring_a_moved_image_back(store: DatasetStore) -> None:
    store.move("tile", ["train/good/1.png"], "test/hole")
    with pytest.raises(AlreadyExists, match=r"is stored as test/hole/1\.png already"):
        store.add("tile", "train/good/1.png", image(1))


def test_name_that_is_taken_gets_a_part_of_the_digest(store: DatasetStore) -> None:
    moves = store.move("tile", ["train/good/0.png", "train/good/1.png"], "test/crack").images
    assert [move.target.path for move in moves] == [
        f"test/crack/{number}-{move.entry.sha256[:8]}.png" for number, move in enumerate(moves)
    ]
    assert store.get("tile").test_images == {"crack": 5}


def test_image_of_equal_content_under_the_same_name_is_not_stored_twice(store: DatasetStore) -> None:
    store.move("tile", ["train/good/0.png"], "test/crack")
    store.add("tile", "test/hole/0.png", image(0))
    with pytest.raises(AlreadyExists, match="under both names"):
        store.move("tile", ["test/hole/0.png"], "test/crack")


def test_masks_move_with_the_image_and_take_its_new_name(store: DatasetStore) -> None:
    store.add("tile", "test/hole/0.png", image(30))
    [move] = store.move("tile", ["test/crack/0.png"], "test/hole").images
    assert f"ground_truth/hole/0-{move.entry.sha256[:8]}_mask.png" in paths(store)
    moved = next(each for each in store.images("tile") if each.path == move.target.path)
    assert store.masks_of(moved) == (image(20),)
    assert store.unpaired("tile").masks == ()


def test_masks_of_images_that_become_good_are_deleted(store: DatasetStore) -> None:
    plan = store.move("tile", ["test/crack/0.png", "test/crack/1.png"], "test/good")
    assert [mask.path for mask in plan.deleted_masks] == ["ground_truth/crack/0_mask.png"]
    assert store.get("tile").masks == 0
    assert store.get("tile").test_images == {"crack": 1, "good": 2}


def test_mask_without_an_image_is_adopted_only_in_its_size(store: DatasetStore) -> None:
    store.add("tile", "ground_truth/hole/1_mask.png", image(40, side=20))
    with pytest.raises(InvalidRequest, match="must have the same size"):
        store.move("tile", ["train/good/1.png"], "test/hole")
    store.add("tile", "ground_truth/oil/1_mask.png", image(41))
    store.move("tile", ["train/good/1.png"], "test/oil")
    assert store.unpaired("tile").masks == ("ground_truth/hole/1_mask.png",)


def test_image_that_is_in_the_folder_stays_and_the_move_can_be_repeated(store: DatasetStore) -> None:
    for _ in range(2):
        [move] = store.move("tile", ["train/good/1.png"], "test/hole").images
        assert move.target.path == "test/hole/1.png"
    assert move.stays
    assert len(paths(store)) == 7


@pytest.mark.parametrize(
    ("names", "folder", "kind"),
    [
        (["train/good/0.png"], "train/crack", InvalidRequest),
        (["train/good/0.png"], "ground_truth/crack", InvalidRequest),
        (["train/good/0.png"], "test", InvalidRequest),
        (["train/good/0.png"], "test/../good", InvalidRequest),
        (["train/good/0.png"], "test/a b", InvalidRequest),
        (["ground_truth/crack/0_mask.png"], "test/hole", InvalidRequest),
        (["train/good/0.png", "train/good/9.png"], "test/hole", NotFound),
        (["train/good/0.png", "nowhere"], "test/hole", InvalidRequest),
    ],
)
def test_refused_move_changes_nothing(
    store: DatasetStore, names: list[str], folder: str, kind: type[Exception]
) -> None:
    before = store.get("tile").snapshot
    with pytest.raises(kind):
        store.move("tile", names, folder)
    assert store.get("tile").snapshot == before


def test_disk_that_fails_in_the_middle_leaves_all_images_where_they_were(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    before = paths(store)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Exception, match=r"(?i)space"):
        store.move("tile", ["train/good/0.png", "train/good/1.png"], "test/hole")
    monkeypatch.undo()
    assert paths(DatasetStore(tmp_path, ImageLimits())) == before
    assert not list((tmp_path / "tile/test/hole").glob("*"))


def test_file_that_a_killed_move_left_is_replaced(store: DatasetStore, tmp_path: Path) -> None:
    left = tmp_path / "tile/test/hole/1.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left")
    store.move("tile", ["train/good/1.png"], "test/hole")
    assert store.read_path("tile", "test/hole/1.png") == image(1)
