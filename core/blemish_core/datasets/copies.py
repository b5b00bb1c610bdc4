# SPDX-License-Identifier: Apache-2.0
"""Equal files among the images of a dataset, by SHA-256.

A test image that the detector was trained on looks easier than a new one. Equal files that are both good
and defective are a mistake of labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blemish_core.datasets.layout import GOOD, LayoutPath

_NAMED_GROUPS, _NAMED_FILES = 5, 4


class _Entry(Protocol):
    """An image or a mask of a dataset."""

    @property
    def path(self) -> str:
        """Path in the dataset."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the encoded bytes, in hex."""

    @property
    def shown(self) -> str:
        """Path for people."""


@dataclass(frozen=True)
class Copies:
    """Equal files."""

    paths: tuple[str, ...]
    """Paths in the dataset, in order."""
    shown: tuple[str, ...]
    """Paths for people, in the same order."""
    sha256: str

    @property
    def are_contradictory(self) -> bool:
        """True if some are good and others defective."""
        return len({self._location(path).label == GOOD for path in self.paths}) > 1

    @property
    def are_across_splits(self) -> bool:
        """True if some are training images and others test images."""
        return len({self._location(path).part for path in self.paths}) > 1

    def describe(self) -> str:
        """Return the paths for people, joined by equals signs."""
        more = len(self.shown) - _NAMED_FILES
        return " = ".join(self.shown[:_NAMED_FILES]) + (f" and {more} more" if more > 0 else "")

    @staticmethod
    def _location(path: str) -> LayoutPath:
        return LayoutPath.parse(path)


def find_equal_files(entries: Iterable[_Entry]) -> list[Copies]:
    """Return the groups of equal files, sorted by path; masks may be equal and are ignored."""
    by_content: dict[str, list[_Entry]] = {}
    for entry in entries:
        if not entry.path.startswith("ground_truth/"):
            by_content.setdefault(entry.sha256, []).append(entry)
    groups = [sorted(group, key=lambda each: each.path) for group in by_content.values() if len(group) > 1]
    return [
        Copies(tuple(each.path for each in group), tuple(each.shown for each in group), group[0].sha256)
        for group in sorted(groups, key=lambda group: group[0].path)
    ]


def copies_warnings(groups: Sequence[Copies], dataset: str) -> list[str]:
    """Return sentences about equal files, with a remedy each.

    Args:
        groups: groups of equal files.
        dataset: id of the dataset.
    """
    contradictory = [group for group in groups if group.are_contradictory]
    across = [group for group in groups if group.are_across_splits and not group.are_contradictory]
    within = [group for group in groups if not group.are_across_splits and not group.are_contradictory]
    remove = f"`blemish dataset remove {dataset} PATH`"
    warnings = []
    if contradictory:
        warnings.append(
            f"{_files(contradictory)} in good and in defective images: {_named(contradictory)}; "
            f"figures leave them out; remove the wrong ones with {remove}"
        )
    if across:
        warnings.append(
            f"{_files(across)} in both training and test images: {_named(across)}; figures leave them out; "
            f"remove them from one of the two with {remove}"
        )
    if within:
        warnings.append(
            f"{_files(within)} several times: {_named(within)}; they count once; remove the copies with "
            f"{remove}"
        )
    return warnings


def _files(groups: Sequence[Copies]) -> str:
    return f"the dataset has {len(groups)} file{'s' if len(groups) > 1 else ''}"


def _named(groups: Sequence[Copies]) -> str:
    more = len(groups) - _NAMED_GROUPS
    named = "; ".join(group.describe() for group in groups[:_NAMED_GROUPS])
    return f"{named}{f' and {more} more' if more > 0 else ''}"
