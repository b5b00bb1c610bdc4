# SPDX-License-Identifier: Apache-2.0
"""The sets of images in a folder, imported into a store with fixed random subsets of their test images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blemish_core.datasets import DatasetStore
from blemish_core.datasets.layout import EXTENSIONS, GOOD
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.platform.errors import InvalidRequest, NotFound

DATASET = "images"
"""Id of the dataset in the store of each set, because a folder's name may not be a valid id."""

_SUBSET_SEED = 20_261_202
"""Seed of all subsets; another one makes results incomparable."""


@dataclass(frozen=True)
class SubsetLimits:
    """The most images of a set that are used; None uses all."""

    train: int | None = None
    test_per_class: int | None = None


@dataclass(frozen=True)
class ImageSet:
    """An imported set."""

    name: str
    folder: Path
    """Folder of the store."""
    store: DatasetStore
    snapshot: str
    """SHA-256 of the imported images and masks."""
    train: int
    """Number of good training images of which each draw takes a subset."""
    test: int
    skipped: tuple[str, ...]
    """Paths that cannot be imported, each with the reason."""
    mask: FrameMask | None = None
    """Pixels that the detectors look at; None for all."""

    def masked(self, mask: FrameMask) -> "ImageSet":
        """Return the set with a mask, under a name and snapshot of its own."""
        snapshot = f"{self.snapshot} {mask.summary().sha256}"
        return replace(self, name=f"{self.name}, masked", snapshot=snapshot, mask=mask)


def find_sets(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the folders below ``folder`` that hold a set with images of both splits, by name.

    Args:
        folder: folder of sets in MVTec AD's layout.
        names: names of the wanted sets; all if empty.

    Raises:
        NotFound: if there is no set, or none of a wanted name.
    """
    found = {
        each.name: each
        for each in sorted(folder.glob("*"))
        if (each / "train" / GOOD).is_dir() and (each / "test").is_dir()
    }
    if missing := sorted(set(names) - set(found)):
        raise NotFound(f"{folder} has no set {', '.join(missing)}; choose among {', '.join(found)}")
    if not found:
        raise NotFound(f"{folder} has no sets; each needs train/{GOOD} and test in MVTec AD's layout")
    return [path for name, path in found.items() if not names or name in names]


def import_set(folder: Path, into: Path, limits: SubsetLimits) -> ImageSet:
    """Import all training images and a fixed subset of the test images with their masks.

    Raises:
        InvalidRequest: if the set is left without training or test images.
    """
    store = DatasetStore(into, ImageLimits())
    store.create(DATASET, "")
    skipped = []
    for file in _chosen_files(folder, limits):
        path = file.relative_to(folder).as_posix()
        try:
            store.add(DATASET, path, file.read_bytes())
        except InvalidRequest as error:
            skipped.append(f"{path}: {error}")
    dataset = store.get(DATASET)
    train, test = dataset.train_images, sum(dataset.test_images.values())
    if not train or not test:
        raise InvalidRequest(
            f"{folder.name} has {train} training and {test} test images that can be read; add some"
        )
    return ImageSet(folder.name, into, store, dataset.snapshot, train, test, tuple(skipped))


def training_subset(count: int, draw: int, limits: SubsetLimits) -> list[int]:
    """Return the numbers of the training images of a draw, ascending."""
    most = count if limits.train is None else min(count, limits.train)
    return sorted(_permutation(count, draw)[:most])


def _chosen_files(folder: Path, limits: SubsetLimits) -> Iterator[Path]:
    yield from _images(folder / "train" / GOOD)
    for of_class in sorted(each for each in (folder / "test").glob("*") if each.is_dir()):
        files = _images(of_class)
        most = len(files) if limits.test_per_class is None else limits.test_per_class
        for number in sorted(_permutation(len(files), 0)[:most]):
            yield files[number]
            yield from _masks(folder, files[number])


def _masks(folder: Path, image: Path) -> Iterator[Path]:
    truth = folder / "ground_truth" / image.parent.name
    for file in (f"{image.stem}_mask", image.stem):
        found = [truth / f"{file}{extension}" for extension in EXTENSIONS]
        if existing := [each for each in found if each.is_file()]:
            yield existing[0]
            return


def _images(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("*") if each.suffix.lower() in EXTENSIONS)


def _permutation(count: int, draw: int) -> list[int]:
    order: list[int] = np.random.default_rng((_SUBSET_SEED, draw)).permutation(count).tolist()
    return order
