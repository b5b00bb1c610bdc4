# SPDX-License-Identifier: Apache-2.0
"""Where an image may lie in a dataset: MVTec AD's layout, and nothing outside it.

Layout after Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly
Detection", CVPR 2019.
"""

import re
from dataclasses import dataclass
from typing import Literal

from blemish_core.platform.errors import InvalidRequest

Part = Literal["train", "test", "ground_truth"]
Key = tuple[Part, str, str]

GOOD = "good"
PARTS: tuple[Part, ...] = ("train", "test", "ground_truth")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
IN_WORDS = "train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME"

_MASK = "_mask"
# No spaces and no dots: a class name becomes a word of commands, filters and reports.
_CLASS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class LayoutPath:
    """A place in the layout."""

    part: Part
    class_name: str
    name: str

    @classmethod
    def parse(cls, path: str) -> "LayoutPath":
        """Read ``test/crack/003.png``.

        Raises:
            InvalidRequest: if ``path`` is not a place in the layout; the message says why.
        """
        pieces = path.split("/")
        if len(pieces) != 3 or pieces[0] not in PARTS:
            raise _refused(path, f"write {IN_WORDS}")
        part, class_name, name = pieces
        if not _CLASS.fullmatch(class_name):
            raise _refused(
                path,
                f"{class_name!r} cannot be a class: 1 to 63 letters, digits, '-' and '_', "
                "beginning with a letter or digit",
            )
        if part == "train" and class_name != GOOD:
            raise _refused(path, "train/ holds good images alone, in train/good/")
        if part == "ground_truth" and class_name == GOOD:
            raise _refused(path, "good images have no ground truth")
        if not _NAME.fullmatch(name):
            raise _refused(
                path,
                f"{name!r} cannot be a file name: 1 to 128 letters, digits, '.', '-' and '_', "
                "beginning with a letter or digit",
            )
        if not name.lower().endswith(EXTENSIONS):
            raise _refused(path, f"the name must end in {', '.join(EXTENSIONS)}")
        for known in PARTS:
            if part == known:
                return cls(known, class_name, name)
        raise AssertionError("a part is one of PARTS; this is a bug")

    @property
    def key(self) -> Key:
        """What ties an image to its mask: the path without the extension."""
        return self.part, self.class_name, self.name.rpartition(".")[0]

    @property
    def partners(self) -> list[Key]:
        """Where the mask of this image, or the image of this mask, may lie; the usual place first."""
        part, class_name, stem = self.key
        if part == "ground_truth":
            return [("test", class_name, stem.removesuffix(_MASK)), ("test", class_name, stem)]
        if part == "test" and class_name != GOOD:
            return [("ground_truth", class_name, stem + _MASK), ("ground_truth", class_name, stem)]
        return []

    def __str__(self) -> str:
        return f"{self.part}/{self.class_name}/{self.name}"


def _refused(path: str, cure: str) -> InvalidRequest:
    return InvalidRequest(f"{path!r} is not a place in a dataset: {cure}", field="path")
