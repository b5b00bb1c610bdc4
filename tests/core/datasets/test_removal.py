# SPDX-License-Identifier: Apache-2.0
"""Removal of images and datasets while other processes use them."""

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import InvalidRequest, NotFound

Draw = Callable[..., bytes]

PATHS = ("train/good/0.png", "train/good/1.png", "test/good/2.png", "test/crack/3.png", "test/crack/4.png")
MASK = "ground_truth/crack/3_mask.png"


@pytest.fixture
def filled(store: DatasetStore, draw: Draw) -> DatasetStore:
    store.create("tile", "tile")
    for number, path in enumerate(PATHS):
        store.add("tile", path, draw(number))
    store.add("tile", MASK, draw(9))
    return store


def paths(store: DatasetStore) -> list[str]:
    return [entry.path for entry in store.entries("tile")]


def test_entries_are_listed_by_prefix_and_position(filled: DatasetStore) -> None:
    assert paths(filled) == sorted([*PATHS, MASK])
    assert [entry.path for entry in filled.entries("tile", "test/crack/")] == list(PATHS[3:])
    assert [entry.path for entry in filled.entries("tile", "test/", "test/crack/3.png")] == [
        "test/crack/4.png",
        "test/good/2.png",
    ]


def test_mask_is_removed_with_its_image_but_not_vice_versa(filled: DatasetStore) -> None:
    chosen = [entry.path for entry in filled.select("tile", [PATHS[3], MASK, PATHS[0]])]
    assert chosen == [PATHS[3], MASK, PATHS[0]]
    assert [entry.path for entry in filled.select("tile", [PATHS[3]])] == [PATHS[3], MASK]
    assert [entry.path for entry in filled.select("tile", [MASK])] == [MASK]


def test_removed_image_is_gone_for_all_stores_and_can_be_added_again(
    filled: DatasetStore, root: Path, draw: Draw
) -> None:
    other = DatasetStore(root, ImageLimits())  # another process
    before = other.get("tile")
    filled.remove("tile", [PATHS[1], PATHS[3], MASK])
    for store in (filled, other):
        assert paths(store) == [PATHS[4], PATHS[2], PATHS[0]]
        with pytest.raises(NotFound):
            store.read_path("tile", PATHS[1])
    assert not (root / "tile" / PATHS[1]).exists()
    assert other.add("tile", PATHS[1], draw(77)), "the path may get other content"
    for number, path in ((1, PATHS[1]), (3, PATHS[3])):
        if path == PATHS[1]:
            other.remove("tile", [path])
        assert filled.add("tile", path, draw(number))
    assert filled.add("tile", MASK, draw(9))
    assert filled.get("tile").snapshot == before.snapshot


def test_missing_path_removes_nothing(filled: DatasetStore) -> None:
    for call in (filled.remove, filled.select):
        with pytest.raises(NotFound, match=r"has no train/good/9\.png"):
            call("tile", [PATHS[0], "train/good/9.png"])
        with pytest.raises(InvalidRequest, match="not a path"):
            call("tile", [PATHS[0], "../secret"])
    assert len(paths(filled)) == 6


def test_deleted_dataset_frees_its_name(filled: DatasetStore, root: Path, draw: Draw) -> None:
    other = DatasetStore(root, ImageLimits())
    assert other.get("tile").train_images == 2
    (root / f".grid.deleted-{'0' * 32}" / "train").mkdir(parents=True)  # left by a killed process
    filled.delete("tile")
    assert list(root.iterdir()) == []
    for store in (filled, other):
        assert store.list() == []
        with pytest.raises(NotFound, match="datasets/tile"):
            store.images("tile")
        with pytest.raises(NotFound, match="datasets/tile"):
            store.delete("tile")
    filled.create("tile", "tile")
    # The store must not rely on folders that it created before.
    assert other.add("tile", PATHS[0], draw(5))
    assert [entry.path for entry in filled.entries("tile")] == [PATHS[0]]


def test_damaged_dataset_can_be_deleted(filled: DatasetStore, root: Path) -> None:
    (root / "tile/dataset.json").write_text("{")
    filled.delete("tile")
    assert list(root.iterdir()) == []


@contextmanager
def write_lock(dataset: Path) -> Iterator[None]:
    """Hold the write lock of a dataset, as another process would."""
    with (dataset / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("recreated", [False, True])
def test_waiting_writer_gets_not_found_after_removal(
    filled: DatasetStore, root: Path, draw: Draw, recreated: bool
) -> None:
    """The writer must not write into a new dataset of the same name under the old lock."""
    writer = DatasetStore(root, ImageLimits())
    assert writer.get("tile").train_images == 2
    results: list[object] = []

    def write() -> None:
        try:
            results.append(writer.add("tile", "train/good/new.png", draw(8)))
        except NotFound as error:
            results.append(error)

    thread = threading.Thread(target=write)
    with ExitStack() as successor:
        with write_lock(root / "tile"):
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "it should wait for the lock"
            (root / "tile").rename(root / ".tile.deleted-now")  # like DatasetStore.delete
            if recreated:
                filled.create("tile", "tile")
                successor.enter_context(write_lock(root / "tile"))
        thread.join(0.3)
        assert thread.is_alive() == recreated, "it should wait for the successor's lock too"
    thread.join(10)
    if recreated:
        assert results == [True]
        assert [entry.path for entry in filled.entries("tile")] == ["train/good/new.png"]
    else:
        assert isinstance(results[0], NotFound)
        assert not (root / "tile").exists()
