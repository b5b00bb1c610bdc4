# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator, Sequence

from blemish.v1.dataset_pb2 import (
    ClassCount,
    Dataset,
    DatasetImage,
    DeleteImagesResponse,
    MoveImagesResponse,
)
from blemish.v1.model_pb2 import Model, ModelVersion
from blemish_client.client import Client
from blemish_console.data import datasets

TILE = Dataset(
    name="datasets/tile",
    train_images=3,
    test_images=[ClassCount(class_name=name, images=2) for name in ("crack", "good", "oil")],
)


class StoredDatasets(Client):
    """A client of a server with one dataset, of which two versions were trained."""

    def __init__(self, images: Sequence[str] = ()) -> None:
        super().__init__("127.0.0.1:1")
        self._paths = images
        self.moved: list[tuple[int, str]] = []
        self.deleted: list[int] = []
        """Number of paths in each call that deletes images."""

    def datasets(self) -> Iterator[Dataset]:
        yield TILE
        yield Dataset(name="datasets/unused")

    def models(self) -> Iterator[Model]:
        made = [ModelVersion(name=f"models/a/versions/{n}", dataset="datasets/tile") for n in (1, 2)]
        for seconds, version in enumerate(made):
            version.create_time.FromSeconds(seconds)
        yield Model(name="models/a", versions=made)

    def images(self, dataset: str, *, under: str = "") -> Iterator[DatasetImage]:
        yield from (DatasetImage(path=path) for path in self._paths if path.startswith(under))

    def move_images(self, dataset: str, paths: Sequence[str], folder: str) -> MoveImagesResponse:  # type: ignore[override]
        self.moved.append((len(paths), folder))
        return MoveImagesResponse(deleted_masks=1)

    def delete_images(self, dataset: str, paths: Sequence[str]) -> DeleteImagesResponse:  # type: ignore[override]
        self.deleted.append(len(paths))
        return DeleteImagesResponse(removed=len(paths))


def test_good_images_come_before_defects() -> None:
    found = [(group.folder, group.count, group.is_defective) for group in datasets.groups(TILE)]
    assert found == [
        ("train/good", 3, False),
        ("test/good", 2, False),
        ("test/crack", 2, True),
        ("test/oil", 2, True),
    ]


def test_dataset_has_the_versions_that_were_trained_from_it() -> None:
    tile, unused = datasets.read_datasets(StoredDatasets())
    assert tile.models == ["a/2", "a/1"]
    assert unused.models == []


def test_gallery_lists_one_class_without_masks_and_others_of_the_same_beginning() -> None:
    paths = ["ground_truth/crack/0_mask.png", "test/crack/0.png", "test/crack_2/0.png"]
    client = StoredDatasets(paths)
    found = datasets.read_images(client, "tile", "test/crack")
    assert ([image.path for image in found.images], found.is_cut) == (["test/crack/0.png"], False)
    assert [image.path for image in datasets.read_covers(client, "tile")] == paths[1:]


def test_gallery_of_too_many_images_is_cut() -> None:
    client = StoredDatasets([f"train/good/{n:05}.png" for n in range(datasets.MAX_IMAGES + 1)])
    found = datasets.read_images(client, "tile", "train/good")
    assert (len(found.images), found.is_cut) == (datasets.MAX_IMAGES, True)


def test_more_images_than_a_call_takes_are_removed_in_several() -> None:
    client = StoredDatasets()
    assert datasets.remove(client, "tile", [f"train/good/{n}.png" for n in range(2001)]) == 2001
    assert client.deleted == [1000, 1000, 1]


def test_more_images_than_a_call_takes_are_moved_in_several() -> None:
    client = StoredDatasets()
    assert datasets.move(client, "tile", [f"train/good/{n}.png" for n in range(1001)], "test/crack") == 2
    assert client.moved == [(1000, "test/crack"), (1, "test/crack")]
