# SPDX-License-Identifier: Apache-2.0
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blemish_core.datasets import DatasetStore, IncomingFile, Outcome, UnpairedFiles
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidImage, InvalidRequest, NotFound
from blemish_layouts.plan import Conversion

Draw = Callable[..., bytes]


class TestDatasets:
    def test_new_dataset_is_empty(self, store: DatasetStore) -> None:
        created = store.create("tile", "tile")
        assert (created.id, created.category, created.train_images, created.test_images) == (
            "tile",
            "tile",
            0,
            {},
        )
        assert (created.masks, created.size_bytes) == (0, 0)
        assert created.snapshot == hashlib.sha256().hexdigest()
        assert abs(datetime.now(UTC) - created.create_time) < timedelta(minutes=1)
        assert store.get("tile") == created

    def test_category_defaults_to_the_id(self, store: DatasetStore) -> None:
        assert store.create("tile-2", "").category == "tile-2"

    def test_taken_id_is_rejected(self, store: DatasetStore, draw: Draw) -> None:
        store.create("tile", "tile")
        store.add("tile", "train/good/0.png", draw())
        before = store.get("tile")
        with pytest.raises(AlreadyExists, match="another id"):
            store.create("tile", "leather")
        assert store.get("tile") == before

    @pytest.mark.parametrize("dataset_id", ["", "..", "a/b", "Tile", ".tile", "a" * 64, "tile\0"])
    def test_malformed_ids_are_rejected(self, store: DatasetStore, dataset_id: str) -> None:
        with pytest.raises(InvalidRequest):
            store.create(dataset_id, "tile")
        with pytest.raises(InvalidRequest):
            store.get(dataset_id)
        with pytest.raises(InvalidRequest):
            store.create("tile", dataset_id or "..")

    def test_missing_dataset_is_not_found(self, store: DatasetStore, draw: Draw) -> None:
        for call in (
            lambda: store.get("tile"),
            lambda: store.images("tile"),
            lambda: store.add("tile", "train/good/0.png", draw()),
            lambda: store.read_path("tile", "train/good/0.png"),
        ):
            with pytest.raises(NotFound, match="datasets/tile"):
                call()

    def test_datasets_are_listed_by_id_in_pages(self, store: DatasetStore, root: Path) -> None:
        assert store.list() == []
        for dataset_id in ("b", "a-1", "c", "a"):
            store.create(dataset_id, "")
        (root / ".half-created.123").mkdir()
        (root / "no-manifest").mkdir()
        assert [dataset.id for dataset in store.list()] == ["a", "a-1", "b", "c"]
        assert [dataset.id for dataset in store.list(limit=2)] == ["a", "a-1"]
        assert [dataset.id for dataset in store.list(after="a-1", limit=9)] == ["b", "c"]

    def test_damaged_manifest_is_named(self, store: DatasetStore, root: Path) -> None:
        store.create("tile", "")
        (root / "tile" / "dataset.json").write_text("{")
        with pytest.raises(Corrupt, match=r"dataset\.json is damaged"):
            store.get("tile")

    def test_recreated_dataset_starts_empty(self, store: DatasetStore, root: Path, draw: Draw) -> None:
        store.create("tile", "")
        store.add("tile", "train/good/0.png", draw())
        (root / "tile").rename(root.parent / "gone")
        with pytest.raises(NotFound):
            store.get("tile")
        assert store.create("tile", "leather").train_images == 0


class TestImages:
    @pytest.fixture(autouse=True)
    def tile(self, store: DatasetStore) -> None:
        store.create("tile", "ceramic")

    def test_images_are_counted_and_read_back(self, store: DatasetStore, draw: Draw) -> None:
        contents = {
            "train/good/000.png": draw(0),
            "train/good/001.png": draw(1),
            "test/good/000.png": draw(2),
            "test/crack/000.png": draw(3, 32),
            "test/Oil_2/000.PNG": draw(4),
            "ground_truth/crack/000_mask.png": draw(5, 32),
        }
        for path, data in contents.items():
            assert store.add("tile", path, data)
        dataset = store.get("tile")
        assert dataset.train_images == 2
        assert dataset.test_images == {"Oil_2": 1, "crack": 1, "good": 1}
        assert dataset.masks == 1
        assert dataset.size_bytes == sum(map(len, contents.values()))
        images = store.images("tile")
        assert [image.path for image in images] == sorted(p for p in contents if p[0] == "t")
        assert {image.path for image in store.images("tile", "train")} == {
            p for p in contents if "train" in p
        }
        assert {image.path for image in store.images("tile", "test")} == {
            p for p in contents if "test" in p
        }
        for image in images:
            assert store.read(image) == contents[image.path]
            assert store.read_path("tile", image.path) == contents[image.path]
            assert image.sha256 == hashlib.sha256(contents[image.path]).hexdigest()
        crack = images[1]
        assert (crack.dataset, crack.category, crack.split) == ("tile", "ceramic", "test")
        assert (crack.class_name, crack.width, crack.height) == ("crack", 32, 32)

    def test_same_content_again_is_not_stored_twice(self, store: DatasetStore, draw: Draw) -> None:
        assert store.add("tile", "train/good/0.png", draw())
        before = store.get("tile")
        assert not store.add("tile", "train/good/0.png", draw())
        assert store.get("tile") == before

    def test_other_content_under_the_path_is_rejected(self, store: DatasetStore, draw: Draw) -> None:
        store.add("tile", "train/good/0.png", draw(1))
        with pytest.raises(AlreadyExists, match=r"train/good/0\.png .*another name"):
            store.add("tile", "train/good/0.png", draw(2))
        assert store.read_path("tile", "train/good/0.png") == draw(1)

    def test_announced_hash_is_checked(self, store: DatasetStore, draw: Draw) -> None:
        assert store.add("tile", "train/good/0.png", draw(1), hashlib.sha256(draw(1)).digest())
        for wrong in (hashlib.sha256(draw(1)).digest(), b"short"):
            with pytest.raises(InvalidRequest, match="sha256") as refusal:
                store.add("tile", "train/good/1.png", draw(2), wrong)
            assert refusal.value.field == "sha256"
        assert store.get("tile").train_images == 1

    @pytest.mark.parametrize(
        "path", ["../x.png", "train/good/../../../x.png", "/etc/x.png", "dataset.json"]
    )
    def test_paths_outside_the_layout_are_rejected(
        self, store: DatasetStore, root: Path, draw: Draw, path: str
    ) -> None:
        before = sorted(root.rglob("*"))
        with pytest.raises(InvalidRequest):
            store.add("tile", path, draw())
        with pytest.raises(InvalidRequest):
            store.read_path("tile", path)
        assert sorted(root.rglob("*")) == before

    def test_bytes_that_are_not_an_image_are_rejected_by_name(
        self, store: DatasetStore, root: Path, draw: Draw
    ) -> None:
        for path in ("train/good/0.png", "ground_truth/crack/0.png"):
            for data in (b"", b"hello", draw()[:-20]):
                with pytest.raises(InvalidImage, match=path):
                    store.add("tile", path, data)
        assert not list((root / "tile").rglob("*.png"))

    def test_limits_of_the_store_apply(self, root: Path, draw: Draw) -> None:
        small = DatasetStore(root, ImageLimits(max_side=20))
        with pytest.raises(InvalidImage, match="at most 20"):
            small.add("tile", "train/good/0.png", draw())

    def test_masks_are_found_under_both_names(self, store: DatasetStore, draw: Draw) -> None:
        for name in ("a", "b", "c"):
            store.add("tile", f"test/crack/{name}.png", draw(ord(name)))
        store.add("tile", "test/good/a.png", draw(9))
        store.add("tile", "ground_truth/crack/a_mask.png", draw(1))
        store.add("tile", "ground_truth/crack/a.png", draw(2))
        store.add("tile", "ground_truth/crack/b.TIF", draw(3))
        store.add("tile", "ground_truth/oil/c.png", draw(4))
        masks = {image.path: store.masks_of(image) for image in store.images("tile")}
        assert masks == {
            "test/crack/a.png": (draw(2), draw(1)),
            "test/crack/b.png": (draw(3),),
            "test/crack/c.png": (),
            "test/good/a.png": (),
        }

    def test_image_of_another_size_replaces_the_image_and_its_masks(
        self, store: DatasetStore, root: Path, draw: Draw
    ) -> None:
        def replace(path: str, data: bytes) -> Outcome:
            return store.put("tile", IncomingFile(path, data), lambda dataset, digests: None)

        store.add("tile", "test/crack/0.png", draw(0, 24))
        store.add("tile", "ground_truth/crack/0_mask.png", draw(1, 24))
        before = store.get("tile").snapshot
        assert replace("test/crack/0.png", draw(2, 24)) is Outcome.REPLACED
        (image,) = store.images("tile")
        assert store.read(image) == draw(2, 24)
        assert store.masks_of(image) == (draw(1, 24),), "a mask of the same size stays"
        assert store.get("tile").snapshot != before
        assert replace("test/crack/0.png", draw(3, 32)) is Outcome.REPLACED
        assert store.masks_of(store.images("tile")[0]) == ()
        assert store.unpaired("tile").images == ("test/crack/0.png",)
        with pytest.raises(InvalidRequest, match="the same size"):
            replace("ground_truth/crack/0_mask.png", draw(1, 24))
        assert replace("ground_truth/crack/0_mask.png", draw(4, 32)) is Outcome.STORED
        assert replace("ground_truth/crack/0_mask.png", draw(5, 32)) is Outcome.REPLACED
        with pytest.raises(InvalidRequest, match="the same size"):
            replace("ground_truth/crack/0_mask.png", draw(4, 24))
        other = DatasetStore(root, ImageLimits())  # another process
        assert other.masks_of(other.images("tile")[0]) == (draw(5, 32),)

    def test_replacing_back_and_forth_keeps_the_last_image(self, store: DatasetStore, draw: Draw) -> None:
        snapshots = set()
        for number in (0, 1, 0, 1, 1):
            file = IncomingFile("train/good/0.png", draw(number))
            store.put("tile", file, lambda dataset, digests: None)
            assert store.read_path("tile", "train/good/0.png") == draw(number)
            snapshots.add(store.get("tile").snapshot)
        assert len(snapshots) == 2
        old = hashlib.sha256(draw(0)).hexdigest()
        with pytest.raises(NotFound, match="was replaced"):
            store.read_path("tile", "train/good/0.png", old)

    def test_image_with_an_odd_name_is_found_by_it(
        self, store: DatasetStore, root: Path, draw: Draw
    ) -> None:
        odd = "test/two words/2026-01-01/Image (1).png"
        assert store.add("tile", odd, draw(0))
        assert not store.add("tile", odd, draw(0))
        store.add("tile", "ground_truth/two words/2026-01-01/Image (1)_GT.png", draw(1))
        for opened in (store, DatasetStore(root, ImageLimits())):
            (image,) = opened.images("tile")
            assert (image.original, image.class_name) == (odd, "two_words")
            assert opened.masks_of(image) == (draw(1),)
            assert len(opened.select("tile", [odd])) == 2
            assert opened.unpaired("tile") == UnpairedFiles((), ())
        store.remove("tile", [image.path])
        assert store.unpaired("tile").masks == ("ground_truth/two words/2026-01-01/Image (1)_GT.png",)

    def test_safe_name_is_never_shared_by_two_originals(self, store: DatasetStore, draw: Draw) -> None:
        path = "train/good/a--0123456789abcdef.png"
        store.put("tile", IncomingFile(path, draw(0), original="train/good/a b.png"))
        for replacing in (None, lambda dataset, digests: None):
            with pytest.raises(AlreadyExists, match=r"another file, train/good/a b\.png"):
                store.put("tile", IncomingFile(path, draw(1), original="train/good/a  b.png"), replacing)
        assert store.read_path("tile", path) == draw(0)

    def test_file_is_not_stored_again_with_another_class(
        self, store: DatasetStore, tmp_path: Path, draw: Draw
    ) -> None:
        allowed = tmp_path / "allowed"
        for path in ("train/good/0.png", "test/gut/0.png", "test/Riss/0.png"):
            (allowed / "t" / path).parent.mkdir(parents=True)
            (allowed / "t" / path).write_bytes(draw(len(path)))
        with_good = Conversion(good=frozenset({"gut"}))
        store.import_folder("t", "", allowed / "t", [allowed], conversion=with_good)
        again = store.import_folder("t", "", allowed / "t", [allowed])
        assert (again.stored, again.unchanged, again.skipped_count) == (0, 2, 1)
        assert again.skipped[0].path == "test/gut/0.png"
        assert "give the same options as before" in again.skipped[0].reason
        assert again.dataset.test_images == {"Riss": 1, "good": 1}

    def test_images_of_good_folders_stored_by_older_servers_count_as_good(
        self, store: DatasetStore, root: Path, draw: Draw
    ) -> None:
        store.add("tile", "test/crack/0.png", draw(0))
        (root / "tile" / "test" / "OK").mkdir()
        (root / "tile" / "test" / "OK" / "1.png").write_bytes(draw(1))
        (root / "tile" / "index.jsonl").unlink()
        reopened = DatasetStore(root, ImageLimits())
        assert reopened.get("tile").test_images == {"crack": 1, "good": 1}
        assert {image.path: image.class_name for image in reopened.images("tile")} == {
            "test/crack/0.png": "crack",
            "test/OK/1.png": "good",
        }

    def test_mask_of_another_size_is_rejected(self, store: DatasetStore, draw: Draw) -> None:
        store.add("tile", "test/crack/0.png", draw(0, 24))
        with pytest.raises(InvalidRequest, match=r"32 x 32 px, but test/crack/0\.png is 24 x 24"):
            store.add("tile", "ground_truth/crack/0_mask.png", draw(1, 32))
        store.add("tile", "ground_truth/crack/1.png", draw(1, 32))
        with pytest.raises(InvalidRequest, match="the same size"):
            store.add("tile", "test/crack/1.png", draw(1, 24))
        assert store.get("tile").masks == 1

    def test_changed_file_is_reported_as_corrupt(self, store: DatasetStore, root: Path, draw: Draw) -> None:
        store.add("tile", "train/good/0.png", draw(1))
        (image,) = store.images("tile")
        file = root / "tile" / image.path
        file.write_bytes(draw(2))
        with pytest.raises(Corrupt, match="not the file that was stored"):
            store.read(image)
        file.unlink()
        with pytest.raises(Corrupt, match="is missing"):
            store.read(image)


class TestSnapshot:
    def test_snapshot_does_not_depend_on_upload_order(self, store: DatasetStore, draw: Draw) -> None:
        paths = [f"train/good/{i}.png" for i in range(4)] + ["test/crack/0.png", "ground_truth/crack/0.png"]
        for dataset_id, order in (("a", paths), ("b", paths[::-1]), ("c", paths[3:] + paths[:3])):
            store.create(dataset_id, "")
            for path in order:
                store.add(dataset_id, path, draw(paths.index(path)))
        assert len({store.get(dataset_id).snapshot for dataset_id in "abc"}) == 1

    def test_snapshot_depends_on_path_and_content(self, store: DatasetStore, draw: Draw) -> None:
        uploads = [
            ("train/good/0.png", 0),
            ("train/good/1.png", 0),
            ("test/good/0.png", 0),
            ("train/good/0.png", 1),
        ]
        snapshots = set()
        for number, (path, image) in enumerate(uploads):
            store.create(f"d{number}", "")
            store.add(f"d{number}", path, draw(image))
            snapshots.add(store.get(f"d{number}").snapshot)
        assert len(snapshots) == len(uploads)
