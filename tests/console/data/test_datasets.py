# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator, Sequence

import grpc

from blemish.v1.dataset_pb2 import (
    ClassCount,
    Dataset,
    DatasetImage,
    DeleteImagesResponse,
    MoveImagesResponse,
)
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.model_pb2 import ListSuspectsResponse, Model, ModelVersion, Suspect
from blemish.v1.search_pb2 import Hit
from blemish_client.client import Client
from blemish_client.errors import NotFound
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


class ScoredDatasets(StoredDatasets):
    """A client of a server whose version a/1 was trained from tile, and has an index with one image."""

    def suspects(self, dataset: str, *, model: str = "", limit: int = 10) -> ListSuspectsResponse:
        scored = [
            Suspect(path="train/good/0.png", score=3, held_out=True),
            Suspect(path="train/good/1.png", score=1),
        ]
        return ListSuspectsResponse(dataset="datasets/tile", threshold=2, suspects=scored)

    def items(self, model: str, *, where: str = "", order_by: str = "") -> Iterator[Hit]:
        if model != "a/1":
            raise NotFound("no index", code=grpc.StatusCode.NOT_FOUND)
        assert where == 'dataset = "tile" AND class = "crack"'
        yield Hit(path="test/crack/0.png", score=9, verdict=VERDICT_ANOMALOUS)


def test_training_images_have_the_scores_of_the_training() -> None:
    found = datasets.read_scores(ScoredDatasets(), "a/1", "tile", "train/good").by_path
    assert [(path, each.score, each.verdict, each.is_held_out) for path, each in found.items()] == [
        ("train/good/0.png", 3, VERDICT_ANOMALOUS, True),
        ("train/good/1.png", 1, VERDICT_NORMAL, False),
    ]
    assert not datasets.read_scores(ScoredDatasets(), "a/1", "grid", "train/good").by_path


def test_test_images_have_the_scores_of_the_index() -> None:
    found = datasets.read_scores(ScoredDatasets(), "a/1", "tile", "test/crack").by_path
    assert [(path, each.score) for path, each in found.items()] == [("test/crack/0.png", 9)]
    assert not datasets.read_scores(ScoredDatasets(), "b/1", "tile", "test/crack").by_path


def test_images_are_ordered_by_score_and_those_without_one_come_last() -> None:
    scores = datasets.read_scores(ScoredDatasets(), "a/1", "tile", "train/good")
    images = [DatasetImage(path=f"train/good/{n}.png") for n in (2, 1, 0)]
    assert [each.path[-5] for each in scores.ordered(images)] == ["0", "1", "2"]
