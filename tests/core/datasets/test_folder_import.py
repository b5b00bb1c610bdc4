# SPDX-License-Identifier: Apache-2.0
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from blemish_core.datasets import DatasetStore, UnpairedFiles
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import (
    AlreadyExists,
    DiskFull,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
)

Draw = Callable[..., bytes]


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    return tmp_path / "allowed"


@pytest.fixture
def tile(allowed: Path, draw: Draw) -> Path:
    """Return a small dataset below the allowed root."""
    contents = {f"train/good/{i:03d}.png": draw(i) for i in range(5)}
    contents |= {
        "test/good/000.png": draw(10),
        "test/crack/000.png": draw(11),
        "test/crack/001.png": draw(12),
    }
    contents |= {"ground_truth/crack/000_mask.png": draw(13), "ground_truth/crack/001.png": draw(14)}
    return write(allowed / "tile", contents)


class TestImports:
    def test_imports_a_complete_dataset(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        progress: list[tuple[int, int]] = []
        result = store.import_folder("t", "tile", tile, [allowed], lambda n, of: progress.append((n, of)))
        assert (result.stored, result.unchanged, result.skipped_count, result.skipped) == (10, 0, 0, ())
        assert result.unpaired == UnpairedFiles(masks=(), images=())
        assert result.dataset == store.get("t")
        assert (result.dataset.category, result.dataset.train_images, result.dataset.masks) == (
            "tile",
            5,
            2,
        )
        assert result.dataset.test_images == {"crack": 2, "good": 1}
        assert progress == [(n, 10) for n in range(1, 11)]
        assert store.masks_of(store.images("t", "test")[0]) == (draw(13),)
        assert store.masks_of(store.images("t", "test")[1]) == (draw(14),)

    def test_import_gives_the_same_snapshot_as_upload(
        self, store: DatasetStore, allowed: Path, tile: Path
    ) -> None:
        result = store.import_folder("t", "", tile, [allowed])
        store.create("u", "")
        for file in tile.rglob("*.png"):
            store.add("u", file.relative_to(tile).as_posix(), file.read_bytes())
        assert store.get("u").snapshot == result.dataset.snapshot

    def test_second_import_adds_only_new_images(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        first = store.import_folder("t", "", tile, [allowed])
        second = store.import_folder("t", "", tile, [allowed])
        assert (second.stored, second.unchanged, second.dataset) == (0, 10, first.dataset)
        write(tile, {"train/good/005.png": draw(20)})
        third = store.import_folder("t", "", tile, [allowed])
        assert (third.stored, third.unchanged) == (1, 10)

    def test_imports_more_images_than_a_batch(self, store: DatasetStore, allowed: Path, draw: Draw) -> None:
        folder = write(allowed / "many", {f"train/good/{i}.png": draw(i) for i in range(70)})
        assert store.import_folder("many", "", folder, [allowed]).dataset.train_images == 70
        assert DatasetStore(store._root, ImageLimits()).get("many").train_images == 70

    def test_imports_into_an_existing_dataset(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        store.create("t", "ceramic")
        store.add("t", "train/good/upload.png", draw(99))
        with pytest.raises(AlreadyExists, match="category ceramic, not tile"):
            store.import_folder("t", "tile", tile, [allowed])
        assert store.get("t").train_images == 1
        assert store.import_folder("t", "ceramic", tile, [allowed]).dataset.train_images == 6

    def test_other_content_under_a_path_is_skipped_and_the_rest_stored(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        store.create("t", "tile")
        store.add("t", "train/good/002.png", draw(99))
        for stored in (9, 0):
            result = store.import_folder("t", "tile", tile, [allowed])
            assert (result.stored, result.replaced, result.skipped_count) == (stored, 0, 1)
            assert result.skipped[0].path == "train/good/002.png"
            assert "--replace" in result.skipped[0].reason
        assert store.read_path("t", "train/good/002.png") == draw(99)

    def test_replacement_takes_the_new_image_after_its_announcement(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        store.create("t", "tile")
        store.add("t", "train/good/002.png", draw(99))
        old = store.entries("t")[0].sha256
        announced: list[tuple[str, dict[str, str]]] = []

        def before_replacing(dataset: str, digests: Mapping[str, str]) -> None:
            assert store.read_path("t", "train/good/002.png") == draw(99)
            announced.append((dataset, dict(digests)))

        result = store.import_folder("t", "", tile, [allowed], before_replacing=before_replacing)
        assert (result.stored, result.replaced, result.skipped_count) == (9, 1, 0)
        assert announced == [("t", {"train/good/002.png": old})]
        assert store.read_path("t", "train/good/002.png") == draw(2)
        again = store.import_folder("t", "", tile, [allowed], before_replacing=before_replacing)
        assert (again.unchanged, again.replaced, len(announced)) == (10, 0, 1)

    def test_refused_replacement_is_skipped_and_the_rest_stored(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        store.create("t", "tile")
        store.add("t", "train/good/002.png", draw(99))

        def in_use(dataset: str, digests: Mapping[str, str]) -> None:
            raise FailedPrecondition("jobs/1 uses datasets/t; wait for its end")

        result = store.import_folder("t", "", tile, [allowed], before_replacing=in_use)
        assert (result.stored, result.replaced) == (9, 0)
        assert [(each.path, each.reason) for each in result.skipped] == [
            ("train/good/002.png", "jobs/1 uses datasets/t; wait for its end")
        ]
        assert store.read_path("t", "train/good/002.png") == draw(99)

    def test_links_within_the_roots_are_followed(
        self, store: DatasetStore, allowed: Path, tile: Path, tmp_path: Path
    ) -> None:
        (allowed / "alias").symlink_to(tile)
        assert store.import_folder("a", "", allowed / "alias", [allowed]).stored == 10
        (tmp_path / "root-alias").symlink_to(allowed)
        assert store.import_folder("b", "", tile, [tmp_path / "root-alias"]).stored == 10
        assert store.import_folder("c", "", tmp_path / "root-alias" / "tile", [allowed]).stored == 10

    def test_full_disk_keeps_the_images_copied_before(
        self, store: DatasetStore, allowed: Path, tile: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.create("t", "")
        real, left = os.replace, 4

        def full(*args: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "no space")
            real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full)
            with pytest.raises(DiskFull):
                store.import_folder("t", "", tile, [allowed])
        assert store.get("t").train_images == 4
        second = store.import_folder("t", "", tile, [allowed])
        assert (second.stored, second.unchanged) == (6, 4)


class TestSkippedFiles:
    def skipped(self, store: DatasetStore, allowed: Path, folder: Path) -> dict[str, str]:
        result = store.import_folder("t", "", folder, [allowed])
        assert result.stored == 10
        assert result.skipped_count == len(result.skipped)
        return {each.path: each.reason for each in result.skipped}

    def test_files_that_are_not_images_are_skipped(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        write(
            tile,
            {
                "train/good/empty.png": b"",
                "train/good/text.png": b"hello",
                "train/good/half.png": draw(50)[:-30],
                "train/good/notes.txt": b"hello",
                "test/stray.png": draw(52),
                "train/bad/000.png": draw(54),
                "ground_truth/good/000.png": draw(55),
                "ground_truth/crack/002.png": b"GIF89a",
            },
        )
        skipped = self.skipped(store, allowed, tile)
        expected = {
            "train/good/empty.png": "empty",
            "train/good/text.png": "not a JPEG",
            "train/good/half.png": "cannot be decoded",
            "train/good/notes.txt": "must end in",
            "test/stray.png": "test/CLASS/NAME",
            "train/bad/000.png": "contains only good images",
            "ground_truth/good/000.png": "no ground truth",
            "ground_truth/crack/002.png": "not a JPEG",
        }
        assert skipped.keys() == expected.keys()
        for path, reason in expected.items():
            assert reason in skipped[path]

    def test_mask_of_another_size_is_skipped(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        write(tile, {"test/oil/000.png": draw(60, 24)})
        write(tile, {"ground_truth/oil/000_mask.png": draw(61, 32)})
        result = store.import_folder("t", "", tile, [allowed])
        assert result.stored == 11
        assert [each.path for each in result.skipped] == ["ground_truth/oil/000_mask.png"]
        assert "the same size" in result.skipped[0].reason

    def test_hidden_files_and_other_folders_are_ignored(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        write(
            tile,
            {
                "license.txt": b"free",
                "train/good/.DS_Store": b"x",
                "train/good/._000.png": b"x",
                "train/.cache/good/000.png": draw(70),
                ".git/config": b"x",
                "valid/good/000.png": draw(71),
            },
        )
        assert self.skipped(store, allowed, tile) == {}

    def test_links_out_of_the_folder_are_skipped(
        self, store: DatasetStore, allowed: Path, tile: Path, tmp_path: Path, draw: Draw
    ) -> None:
        secret = write(tmp_path / "secret", {"0.png": draw(80), "good/0.png": draw(81)})
        sibling = write(allowed / "leather", {"train/good/0.png": draw(82)})
        good = tile / "train" / "good"
        (good / "out.png").symlink_to(secret / "0.png")
        (good / "sibling.png").symlink_to(sibling / "train" / "good" / "0.png")
        (good / "dangling.png").symlink_to(tmp_path / "nothing")
        (good / "broken.png").symlink_to(good / "nothing")
        (good / "circle.png").symlink_to(good / "circle.png")
        (tile / "test" / "folder").symlink_to(secret)
        (tile / "test" / "inside").symlink_to(tile / "test" / "crack")
        skipped = self.skipped(store, allowed, tile)
        assert "leads out" in skipped.pop("train/good/out.png")
        assert "leads out" in skipped.pop("train/good/sibling.png")
        assert "cannot be read" in skipped.pop("train/good/circle.png")
        assert "leads out" in skipped.pop("train/good/dangling.png")
        assert "cannot be read" in skipped.pop("train/good/broken.png")
        assert "leads out" in skipped.pop("test/folder")
        assert "link to a folder" in skipped.pop("test/inside")
        assert not skipped
        (good / "second.png").symlink_to(good / "000.png")
        assert store.import_folder("t", "", tile, [allowed]).stored == 1

    def test_linked_folder_is_skipped(
        self, store: DatasetStore, allowed: Path, tmp_path: Path, draw: Draw
    ) -> None:
        secret = write(tmp_path / "secret", {"good/0.png": draw()})
        (allowed / "tile").mkdir(parents=True)
        (allowed / "tile" / "train").symlink_to(secret)
        with pytest.raises(InvalidRequest, match="is not a dataset"):
            store.import_folder("t", "", allowed / "tile", [allowed])
        assert not store.list()

    def test_pipes_and_oversized_files_are_skipped(
        self, store: DatasetStore, root: Path, allowed: Path, tile: Path
    ) -> None:
        os.mkfifo(tile / "train" / "good" / "pipe.png")
        with (tile / "train" / "good" / "huge.png").open("wb") as huge:
            huge.truncate(40 << 20)
        skipped = self.skipped(store, allowed, tile)
        assert "regular" in skipped.pop("train/good/pipe.png")
        assert "BLEMISH_MAX_IMAGE_BYTES" in skipped.pop("train/good/huge.png")
        assert not skipped

    def test_undecodable_names_are_skipped_readably(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        (Path(os.fsdecode(os.fsencode(tile) + b"/train/good/\xff\xfe.png"))).write_bytes(b"no image")
        ((path, reason),) = self.skipped(store, allowed, tile).items()
        assert path == r"train/good/\xff\xfe.png"
        assert "not a JPEG" in reason

    def test_only_the_first_thousand_skipped_files_are_named(
        self, store: DatasetStore, allowed: Path, tile: Path
    ) -> None:
        write(tile, {f"train/good/{i:03d}.txt": b"x" for i in range(1020)})
        result = store.import_folder("t", "", tile, [allowed])
        assert (result.stored, result.skipped_count, len(result.skipped)) == (10, 1020, 1000)

    def test_files_that_are_not_images_by_name_are_counted_as_expected(
        self, store: DatasetStore, allowed: Path, tile: Path
    ) -> None:
        write(
            tile, {"train/good/Thumbs.db": b"x", "train/good/half.png": b"x", "test/good/notes.txt": b"x"}
        )
        result = store.import_folder("t", "", tile, [allowed])
        assert (result.skipped_count, result.expected_count) == (3, 2)
        assert {each.path for each in result.skipped if not each.expected} == {"train/good/half.png"}

    def test_links_outside_of_the_image_folders_are_no_loss(
        self, store: DatasetStore, allowed: Path, tile: Path, tmp_path: Path
    ) -> None:
        (tile / "latest").symlink_to(tmp_path)
        (tile / "test" / "latest").symlink_to(tmp_path)
        result = store.import_folder("t", "", tile, [allowed])
        assert {each.path: each.expected for each in result.skipped} == {
            "latest": True,
            "test/latest": False,
        }

    def test_folder_without_readable_images_leaves_no_dataset(
        self, store: DatasetStore, allowed: Path
    ) -> None:
        folder = write(allowed / "broken", {"train/good/0.png": b"", "train/good/1.png": b"x"})
        with pytest.raises(InvalidRequest, match=r"no dataset was created; train/good/0\.png: .*empty"):
            store.import_folder("t", "", folder, [allowed])
        assert not store.list()
        store.create("t", "")
        assert store.import_folder("t", "", folder, [allowed]).skipped_count == 2
        assert store.get("t").train_images == 0


class TestRejectedFolders:
    def test_import_without_roots_is_rejected(self, store: DatasetStore, tile: Path) -> None:
        with pytest.raises(InvalidRequest, match="BLEMISH_IMPORT_ROOTS"):
            store.import_folder("t", "", tile, [])

    def test_error_reveals_nothing_outside_the_roots(
        self, store: DatasetStore, allowed: Path, tile: Path, tmp_path: Path, draw: Draw
    ) -> None:
        secret = write(tmp_path / "secret", {"train/good/0.png": draw()})
        (allowed / "way-out").symlink_to(secret)
        (allowed / "circle").symlink_to(allowed / "circle")
        (tmp_path / "allowed-too").mkdir()
        reasons = set()
        for folder in (
            secret,
            tmp_path / "not-there",
            secret / "train" / "good" / "0.png",
            tmp_path / "allowed-too",
            allowed / ".." / "secret",
            allowed / "way-out",
            allowed / "way-out" / "not-there",
            Path("allowed/tile"),
            Path(),
            Path(f"{allowed}/\0"),
            Path("/"),
        ):
            with pytest.raises(InvalidRequest, match=f"IMPORT_ROOTS; use one of {allowed}") as refusal:
                store.import_folder("t", "", folder, [allowed])
            reasons.add(str(refusal.value).partition(" is not ")[2])
        assert len(reasons) == 1
        with pytest.raises((InvalidRequest, NotFound)):
            store.import_folder("t", "", allowed / "circle", [allowed])
        assert not store.list()

    def test_missing_folder_is_rejected(self, store: DatasetStore, allowed: Path, tile: Path) -> None:
        with pytest.raises(NotFound, match="no folder"):
            store.import_folder("t", "", allowed / "grid", [allowed])
        with pytest.raises(InvalidRequest, match="is a file"):
            store.import_folder("t", "", tile / "train" / "good" / "000.png", [allowed])
        assert not store.list()

    def test_folder_of_datasets_is_rejected_with_their_names(
        self, store: DatasetStore, allowed: Path, tile: Path, draw: Draw
    ) -> None:
        write(allowed, {"leather/train/good/0.png": draw(), "notes/read.me": b"x", "license.txt": b"x"})
        write(allowed.parent, {"secret/train/good/0.png": draw()})
        (allowed / "secret").symlink_to(allowed.parent / "secret")
        with pytest.raises(InvalidRequest, match=r"choose one of: leather, tile$"):
            store.import_folder("t", "", allowed, [allowed])

    def test_folder_without_the_layout_is_rejected(
        self, store: DatasetStore, allowed: Path, draw: Draw
    ) -> None:
        for number, path in enumerate(("0.png", "good/0.png", "train/0.png", "train/bad/0.png")):
            folder = write(allowed / str(number), {path: draw()})
            with pytest.raises(InvalidRequest, match="needs images in train/good/ or test/CLASS/"):
                store.import_folder("t", "", folder, [allowed])
        assert not store.list()

    def test_malformed_names_are_rejected(self, store: DatasetStore, allowed: Path, tile: Path) -> None:
        for dataset_id, category in (("..", ""), ("T", ""), ("t", "Two Words")):
            with pytest.raises(InvalidRequest):
                store.import_folder(dataset_id, category, tile, [allowed])
        assert not store.list()
