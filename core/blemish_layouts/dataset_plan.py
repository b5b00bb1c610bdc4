# SPDX-License-Identifier: Apache-2.0
"""The arrangement of a folder's files as a dataset, and the choices of a person about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from blemish_layouts.names import GOOD
from blemish_layouts.placement import Placement

_NAMED = 10


class NotADataset(ValueError):
    """A folder that cannot become a dataset; the message gives the reason and the remedy."""


class NoGoodClass(NotADataset):
    """A test set without good images; ``classes`` has the folders that it has."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(
            f"the test images are in {listed(classes)}, and none of these names denotes good images; "
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
    layout: str = ""
    """Name of the layout, one of ``LAYOUTS``; empty to detect it."""
    category: str = ""
    """Object to take from a folder of several, or empty."""
    bad: frozenset[str] = frozenset()
    """Folders of defective images, for the layout of folders."""
    masks: frozenset[str] = frozenset()
    """Folders of masks, for the layout of folders."""


AS_NAMED = Conversion()
"""The conversion without choices of a person."""


@dataclass(frozen=True)
class DatasetPlan:
    """The files of a folder with their places in a dataset."""

    files: tuple[Placement, ...]
    """Training images, test images and masks in this order, each sorted by path."""
    left_out: tuple[LeftOut, ...] = field(default=())
    layout: str = "mvtec-ad"
    """Name of the layout that the folder has."""

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


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
