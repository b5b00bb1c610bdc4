# SPDX-License-Identifier: Apache-2.0
"""The view of a folder that layouts have, and the plan that they build."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from blemish_layouts.dataset_plan import Conversion, DatasetPlan, LeftOut, NotADataset
from blemish_layouts.names import GOOD, MAX_NAME, readable
from blemish_layouts.placement import PARTS, MisplacedFile, Part, Placement, is_image, placed

MAX_TABLE_BYTES = 16 << 20
"""Size of the largest CSV or JSON file that describes a dataset."""


@dataclass(frozen=True)
class FolderView:
    """The files of a folder, and the choices of a person about it."""

    files: tuple[str, ...]
    """Paths with slashes, sorted, without hidden files."""
    read: Callable[[str, int], bytes]
    """Returns a file of at most a number of bytes, or raises OSError."""
    conversion: Conversion

    @cached_property
    def paths(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def top(self) -> frozenset[str]:
        """Names of the folders directly below."""
        return frozenset(path.partition("/")[0] for path in self.files if "/" in path)

    def text(self, path: str) -> str:
        """Return the content of a table.

        Raises:
            NotADataset: if it cannot be read, is too large or is not UTF-8.
        """
        try:
            content = self.read(path, MAX_TABLE_BYTES)
        except OSError as error:
            raise NotADataset(f"{readable(path)} cannot be read: {error.strerror or error}") from error
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise NotADataset(f"{readable(path)} is not text in UTF-8; save it as UTF-8") from error


@dataclass
class PlanBuilder:
    """A plan in the making. A file that has no place is left out with the reason."""

    layout: str
    placements: dict[str, Placement] = field(default_factory=dict)
    """Placements by path in the dataset."""
    _by_source: dict[str, Placement] = field(default_factory=dict)
    _masks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _left_out: list[LeftOut] = field(default_factory=list)

    def image(
        self, source: str, part: Part, class_name: str, below: Sequence[str], outside: Sequence[str] = ()
    ) -> None:
        """Add an image, see ``placed``."""
        try:
            self.add(placed(source, part, class_name, below, outside))
        except MisplacedFile as error:
            self.leave(source, str(error), expected=error.expected)

    def add(self, placement: Placement) -> None:
        first = self.placements.setdefault(placement.path, placement)
        if first is not placement:
            reason = f"has the same place in the dataset as {readable(first.source)}; rename one of them"
            self.leave(placement.source, reason)
            return
        self._by_source[placement.source] = placement

    def mask(self, source: str, image: str) -> None:
        """Add a mask of an image, which may have several."""
        self._masks[image].append(source)

    def leave(self, source: str, reason: str, *, expected: bool = False) -> None:
        self._left_out.append(LeftOut(source, reason, expected))

    def leave_folders(self, sources: Iterable[str], reason: str) -> None:
        """Leave out files, named by their folders and numbers only."""
        folders = Counter(source.rpartition("/")[0] for source in sources if is_image(source))
        for folder, count in sorted(folders.items()):
            images = "image" if count == 1 else "images"
            self.leave(folder or ".", f"{count} {images}: {reason}", expected=True)

    def build(self) -> DatasetPlan:
        """Return the plan with the masks named as their images."""
        for image, sources in self._masks.items():
            of = self._by_source.get(image)
            for number, source in enumerate(sorted(sources)):
                if of is None or of.part != "test" or of.class_name == GOOD:
                    reason = "is the mask of an image that is not a defective test image"
                    self.leave(source, reason, expected=True)
                    continue
                suffix = "_mask" if len(sources) == 1 else f"_mask_{number}"
                self._add_mask(source, of, suffix)
        files = sorted(self.placements.values(), key=lambda each: (PARTS.index(each.part), each.path))
        return DatasetPlan(tuple(files), tuple(self._left_out), self.layout)

    def _add_mask(self, source: str, image: Placement, suffix: str) -> None:
        try:
            mask = placed(source, "ground_truth", image.class_name, [source.rpartition("/")[2]])
        except MisplacedFile as error:
            self.leave(source, str(error), expected=error.expected)
            return
        if len(image.stem) + len(suffix) + len(mask.extension) > MAX_NAME:
            suffix = suffix.removeprefix("_mask")
        self.add(replace(mask, name=image.stem + suffix + mask.extension))
