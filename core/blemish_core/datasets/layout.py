# SPDX-License-Identifier: Apache-2.0
"""MVTec AD's layout, which limits the paths of images in a dataset.

Source: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly
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
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pnm", ".jp2", ".j2k"),
)
PATTERNS = "train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME"

_MASK = "_mask"
# No spaces and no dots, because class names appear in commands, filters and reports.
_CLASS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class LayoutPath:
    """The path of an image or a mask in the layout."""

    part: Part
    class_name: str
    name: str

    @classmethod
    def parse(cls, path: str) -> "LayoutPath":
        """Parse a path such as ``test/crack/003.png``.

        Raises:
            InvalidRequest: if ``path`` is not in the layout; the message gives the reason.
        """
        pieces = path.split("/")
        if len(pieces) != 3 or pieces[0] not in PARTS:
            raise _not_in_layout(path, f"write {PATTERNS}")
        part, class_name, name = pieces
        if not _CLASS.fullmatch(class_name):
            raise _not_in_layout(
                path,
                f"{class_name!r} is not a valid class, which has 1 to 63 letters, digits, '-' and '_', "
                "starting with a letter or digit",
            )
        if part == "train" and class_name != GOOD:
            raise _not_in_layout(path, "train/ contains only good images, in train/good/")
        if part == "ground_truth" and class_name == GOOD:
            raise _not_in_layout(path, "good images have no ground truth")
        if not _NAME.fullmatch(name):
            raise _not_in_layout(
                path,
                f"{name!r} is not a valid file name, which has 1 to 128 letters, digits, '.', '-' and '_', "
                "starting with a letter or digit",
            )
        if not name.lower().endswith(EXTENSIONS):
            raise _not_in_layout(path, f"the name must end in {', '.join(EXTENSIONS)}")
        for known in PARTS:
            if part == known:
                return cls(known, class_name, name)
        raise AssertionError("a part is one of PARTS; this is a bug")

    @property
    def key(self) -> Key:
        """Path without the extension, by which images and masks are paired."""
        return self.part, self.class_name, self.name.rpartition(".")[0]

    @property
    def partners(self) -> list[Key]:
        """Possible keys of this image's mask, or of this mask's image, the usual one first."""
        part, class_name, stem = self.key
        if part == "ground_truth":
            return [("test", class_name, stem.removesuffix(_MASK)), ("test", class_name, stem)]
        if part == "test" and class_name != GOOD:
            return [("ground_truth", class_name, stem + _MASK), ("ground_truth", class_name, stem)]
        return []

    def __str__(self) -> str:
        return f"{self.part}/{self.class_name}/{self.name}"


def _not_in_layout(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path!r} is not a path in a dataset; {reason}", field="path")
