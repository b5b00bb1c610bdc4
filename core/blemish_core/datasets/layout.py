# SPDX-License-Identifier: Apache-2.0
"""MVTec AD's layout, which limits the paths of images in a dataset.

Source: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly
Detection", CVPR 2019.
"""

import re
from dataclasses import dataclass

from blemish_core.platform.errors import InvalidRequest
from blemish_layouts.names import EXTENSIONS, GOOD, is_class, is_good, split_mask
from blemish_layouts.placement import PARTS, PATTERNS, Part

__all__ = ["EXTENSIONS", "GOOD", "PARTS", "LayoutPath", "Pair", "Part"]

Pair = tuple[str, str]
"""Class and stem of an image, by which images and masks are paired."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class LayoutPath:
    """The path of an image or a mask in the layout."""

    part: Part
    class_name: str
    """Name of the class's folder."""
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
        if not is_class(class_name):
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
    def label(self) -> str:
        """Class of the image: ``good`` for every folder whose name denotes good images."""
        return GOOD if is_good(self.class_name) else self.class_name

    @property
    def pairs(self) -> list[Pair]:
        """Pair of this image if it may have masks, or possible pairs of this mask, the usual one first."""
        stem = self.name.rpartition(".")[0]
        if self.part == "ground_truth":
            return list(dict.fromkeys([(self.class_name, split_mask(stem)[0]), (self.class_name, stem)]))
        if self.part == "test" and self.label != GOOD:
            return [(self.class_name, stem)]
        return []

    def __str__(self) -> str:
        return f"{self.part}/{self.class_name}/{self.name}"


def _not_in_layout(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path!r} is not a path in a dataset; {reason}", field="path")
