# SPDX-License-Identifier: Apache-2.0
"""The arrangement of a folder's files as a dataset, before any file is read."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from blemish_layouts.names import GOOD, MAX_NAME, readable, split_mask
from blemish_layouts.placement import PARTS, MisplacedFile, Placement, part_of, place

_NAMED = 10


class NotADataset(ValueError):
    """A folder that cannot become a dataset; the message gives the reason and the remedy."""


class NoGoodClass(NotADataset):
    """A test set without good images; ``classes`` has the folders that it has."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(
            f"the test images are in {_listed(classes)}, and none of these names denotes good images; "
            "name the folder of good images (--good NAME), or confirm that all are defective "
            "(--only-defective)"
        )
        self.classes = tuple(classes)


@dataclass(frozen=True)
class LeftOut:
    """A file of the folder that does not become part of the dataset."""

    source: str
    reason: str
    expected: bool
    """True if no image is missing because of it."""


@dataclass(frozen=True)
class Conversion:
    """Choices of a person about the conversion of a folder."""

    good: frozenset[str] = frozenset()
    """Names of folders of good images besides the usual ones."""
    only_defective: bool = False
    """True to accept a test set without good images."""


AS_NAMED = Conversion()
"""The conversion without choices of a person."""


@dataclass(frozen=True)
class DatasetPlan:
    """The files of a folder with their places in a dataset."""

    files: tuple[Placement, ...]
    """Training images, test images and masks in this order, each sorted by path."""
    left_out: tuple[LeftOut, ...] = field(default=())

    @property
    def lacks_good(self) -> bool:
        """True if there are test images, and none of them is good."""
        classes = {each.class_name for each in self.files if each.part == "test"}
        return bool(classes) and GOOD not in classes

    def check_good(self, conversion: Conversion, *, already: bool) -> None:
        """Reject a test set in which good images could count as defective.

        Args:
            conversion: the choices of a person.
            already: True if the dataset has good test images.

        Raises:
            NoGoodClass: if there are test images, and none of them is good.
        """
        if self.lacks_good and not already and not conversion.only_defective:
            raise NoGoodClass(sorted({each.class_name for each in self.files if each.part == "test"}))


def plan(files: Iterable[str], conversion: Conversion) -> DatasetPlan:
    """Arrange the files of a folder.

    Args:
        files: paths with slashes below the folder, without hidden files.
        conversion: the choices of a person.

    Raises:
        NotADataset: if the folder has no images at places that can be recognised.
    """
    inside = [path for path in files if part_of(path.partition("/")[0]) is not None and "/" in path]
    arranged = arrange(inside, conversion.good)
    if not arranged.files:
        raise NotADataset(
            "there are no images in train/good, test/CLASS or ground_truth/CLASS; arrange them in MVTec "
            "AD's layout"
        )
    return arranged


def arrange(files: Iterable[str], good: Collection[str]) -> DatasetPlan:
    """Arrange files that are in MVTec AD's layout."""
    placements: dict[str, Placement] = {}
    left_out = []
    for source in sorted(files):
        try:
            placement = place(source, good)
        except MisplacedFile as error:
            left_out.append(LeftOut(source, str(error), error.expected))
            continue
        first = placements.setdefault(placement.path, placement)
        if first is not placement:
            reason = f"has the same place in the dataset as {readable(first.source)}; rename one of them"
            left_out.append(LeftOut(source, reason, expected=False))
    arranged = _with_masks_renamed(list(placements.values()))
    files_in_order = sorted(arranged, key=lambda each: (PARTS.index(each.part), each.path))
    return DatasetPlan(tuple(files_in_order), tuple(left_out))


def _with_masks_renamed(files: Sequence[Placement]) -> list[Placement]:
    """Name masks as their images where only the case or the normal form of the originals differ."""
    images: dict[tuple[str, ...], set[str]] = defaultdict(set)
    exact = set()
    for file in files:
        if file.part == "test":
            images[file.folded()].add(file.stem)
            exact.add((file.class_name, file.stem))
    taken = {file.path for file in files}
    renamed = []
    for file in files:
        if file.part == "ground_truth":
            stem, suffix = split_mask(file.stem)
            candidates = images.get(file.folded(), set())
            if (
                exact.isdisjoint([(file.class_name, stem), (file.class_name, file.stem)])
                and len(candidates) == 1
            ):
                name = f"{min(candidates)}{suffix}{file.extension}"
                moved = replace(file, name=name)
                if moved.path not in taken and len(name) <= MAX_NAME:
                    taken.add(moved.path)
                    file = moved
        renamed.append(file)
    return renamed


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
