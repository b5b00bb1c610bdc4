# SPDX-License-Identifier: Apache-2.0
"""Datasets, their images by class, and the models that were trained from them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from blemish.v1.dataset_pb2 import Dataset, DatasetImage, UnpairedFiles
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, Verdict
from blemish_client.client import Client
from blemish_client.errors import FailedPrecondition, InvalidArgument, NotFound
from blemish_client.names import short
from blemish_console.data.search import quoted

MAX_IMAGES = 20_000
"""Most images of a class that a gallery lists."""
COVERS = 4
"""Number of images that stand for a dataset in the list."""
TRAIN = "train/good"
GOOD = "good"
_PATHS_PER_CALL = 1000
_MAX_SUSPECTS = 1000


@dataclass(frozen=True)
class Group:
    """The images of one class."""

    folder: str
    """Folder in the dataset: train/good or test/CLASS."""
    count: int

    @property
    def is_defective(self) -> bool:
        return self.folder not in (TRAIN, f"test/{GOOD}")

    @property
    def class_name(self) -> str:
        return self.folder.partition("/")[2]


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset in the list."""

    dataset: Dataset
    models: list[str] = field(default_factory=list)
    """Versions that were trained from it, the newest first."""
    unpaired: UnpairedFiles = field(default_factory=UnpairedFiles)
    """Masks and images that do not belong together; empty in the list of all datasets."""
    versions: list[str] = field(default_factory=list)
    """All versions, those that were trained from it first; empty in the list of all datasets."""

    @property
    def name(self) -> str:
        return short(self.dataset.name)


@dataclass(frozen=True)
class GalleryScore:
    """The score of an image by a version."""

    score: float
    verdict: Verdict.ValueType
    is_held_out: bool = True
    """False for an image that the version learned, whose score is lower than that of a new one."""


@dataclass(frozen=True)
class GalleryScores:
    """The scores of the images of one class."""

    by_path: dict[str, GalleryScore] = field(default_factory=dict)

    def ordered(self, images: Sequence[DatasetImage]) -> list[DatasetImage]:
        """Return images with the highest scores first, and those without one last."""
        lowest = GalleryScore(float("-inf"), VERDICT_NORMAL)
        return sorted(images, key=lambda image: -self.by_path.get(image.path, lowest).score)


@dataclass(frozen=True)
class Images:
    """The images of a class, as far as they are listed."""

    images: list[DatasetImage]
    is_cut: bool = False
    """True if the class has more than ``MAX_IMAGES``."""


def groups(dataset: Dataset) -> list[Group]:
    """Return the classes of a dataset: training images, good test images, then defects by name."""
    tested = {each.class_name: each.images for each in dataset.test_images}
    found = [Group(TRAIN, dataset.train_images), Group(f"test/{GOOD}", tested.pop(GOOD, 0))]
    return found + [Group(f"test/{name}", count) for name, count in sorted(tested.items())]


def read_datasets(client: Client) -> list[DatasetEntry]:
    """Return all datasets by name, with the models that were trained from them."""
    trained = _models_by_dataset(client)
    return [DatasetEntry(each, trained[each.name]) for each in client.datasets()]


def read_dataset(client: Client, name: str) -> DatasetEntry:
    """Return one dataset.

    Raises:
        NotFound: if it does not exist.
    """
    dataset = client.dataset(name)
    trained = _models_by_dataset(client)
    others = [version for of, versions in trained.items() if of != dataset.name for version in versions]
    own = trained[dataset.name]
    return DatasetEntry(dataset, own, client.unpaired(name), own + sorted(others))


def read_covers(client: Client, name: str) -> list[DatasetImage]:
    """Return a few images of a dataset, which show what it is about."""
    return list(islice(client.images(name, under="t"), COVERS))  # train/ and test/, without masks


def read_images(client: Client, name: str, folder: str) -> Images:
    """Return the images of a class by path."""
    found = list(islice(client.images(name, under=f"{folder}/"), MAX_IMAGES + 1))
    return Images(found[:MAX_IMAGES], len(found) > MAX_IMAGES)


def read_scores(client: Client, version: str, name: str, folder: str) -> GalleryScores:
    """Return the scores of the images of a class by a version.

    Scores of training images are from its training, at most 1000 that it held out and 1000 that it learned.
    Scores of test images are from its index. A version that has neither gives no scores.
    """
    if folder == TRAIN:
        try:
            found = client.suspects(name, model=version, limit=_MAX_SUSPECTS)
        except (FailedPrecondition, InvalidArgument, NotFound):
            return GalleryScores()
        if short(found.dataset) != name:
            return GalleryScores()
        return GalleryScores(
            {
                each.path: GalleryScore(
                    each.score,
                    VERDICT_ANOMALOUS if each.score > found.threshold else VERDICT_NORMAL,
                    each.held_out,
                )
                for each in found.suspects
            }
        )
    where = f"dataset = {quoted(name)} AND class = {quoted(folder.partition('/')[2])}"
    try:
        items = list(islice(client.items(version, where=where), MAX_IMAGES))
    except NotFound:  # the version has no index
        return GalleryScores()
    return GalleryScores({item.path: GalleryScore(item.score, item.verdict) for item in items})


def remove(client: Client, name: str, paths: Sequence[str]) -> int:
    """Remove images and their masks; return the number of files that were removed."""
    return sum(client.delete_images(name, part).removed for part in _parts(paths))


def move(client: Client, name: str, paths: Sequence[str], folder: str) -> int:
    """Move images to a folder of images; return the number of masks that were deleted.

    More images than a call takes move in several, so a failure leaves those of earlier calls moved.
    """
    return sum(client.move_images(name, part, folder).deleted_masks for part in _parts(paths))


def _parts(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the paths in parts that fit into one call."""
    for start in range(0, len(paths), _PATHS_PER_CALL):
        yield paths[start : start + _PATHS_PER_CALL]


def _models_by_dataset(client: Client) -> defaultdict[str, list[str]]:
    versions = [version for model in client.models() for version in model.versions]
    versions.sort(key=lambda version: version.create_time.ToNanoseconds(), reverse=True)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for version in versions:
        found[version.dataset].append(short(version.name))
    return found
