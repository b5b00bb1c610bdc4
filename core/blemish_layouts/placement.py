# SPDX-License-Identifier: Apache-2.0
"""The place of one file in a dataset: train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME."""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from blemish_layouts.names import (
    EXTENSIONS,
    GOOD,
    MAX_NAME,
    MAX_ORIGINAL_BYTES,
    class_of,
    is_good,
    readable,
    safe_stem,
    split_extension,
    split_mask,
)

Part = Literal["train", "test", "ground_truth"]
PARTS: tuple[Part, ...] = ("train", "test", "ground_truth")
PATTERNS = "train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME"


class MisplacedFile(ValueError):
    """A file that has no place in a dataset; the message is the reason.

    ``expected`` is True if no image is missing because of it.
    """

    def __init__(self, reason: str, *, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


@dataclass(frozen=True)
class Placement:
    """A file and its place in the dataset."""

    source: str
    """Path below the folder, as the operating system gives it."""
    part: Part
    class_name: str
    name: str

    @property
    def path(self) -> str:
        """Path in the dataset."""
        return f"{self.part}/{self.class_name}/{self.name}"

    @property
    def stem(self) -> str:
        return split_extension(self.name)[0]

    @property
    def extension(self) -> str:
        return split_extension(self.name)[1]

    def folded(self) -> tuple[str, ...]:
        """Return class, folders and stem without a mask's suffix, equal for all cases and normal forms."""
        *folders, name = self.source.split("/")[2:]
        stem, _ = split_extension(name)
        if self.part == "ground_truth":
            stem, _ = split_mask(stem)
        return tuple(
            unicodedata.normalize("NFC", each).casefold() for each in (self.class_name, *folders, stem)
        )

    @property
    def original(self) -> str:
        """The source for people, in valid Unicode; empty if it equals the path."""
        shown = readable(self.source)
        return "" if shown == self.path else shown


def place(source: str, good: Collection[str] = ()) -> Placement:
    """Return the place of a file whose path is like MVTec AD's: part, class, folders and name.

    Parts are recognised in any case, and so are the names of folders of good images. Folders below the
    class are part of the name.

    Args:
        source: path with slashes, below the folder.
        good: names of folders of good images besides the usual ones.

    Raises:
        MisplacedFile: if the file has no place in the dataset.
    """
    pieces = source.split("/")
    part = part_of(pieces[0])
    if part is None or len(pieces) < 3 or any(piece in ("", ".", "..") for piece in pieces):
        raise MisplacedFile(f"is not at a place for images; use {PATTERNS}", expected=not is_image(source))
    class_name = class_from(pieces[1], good)
    outside = () if pieces[1] == class_name else (pieces[1],)
    return placed(source, part, class_name, pieces[2:], outside)


def class_from(folder: str, good: Collection[str] = ()) -> str:
    """Return the class of the images in a folder: ``good``, or the class that its name denotes."""
    return GOOD if is_good(folder, good) else class_of(folder)


def placed(
    source: str, part: Part, class_name: str, below: Sequence[str], outside: Sequence[str] = ()
) -> Placement:
    """Return the place of a file of a class.

    Args:
        source: path with slashes, below the folder of the dataset.
        part: part of the dataset.
        class_name: class of the file.
        below: folders below the class, and the name of the file.
        outside: folders that part and class do not imply, so that they are part of the stored name.

    Raises:
        MisplacedFile: if the file has no place in the dataset.
    """
    stem, extension = split_extension(below[-1])
    if not extension:
        raise MisplacedFile(
            f"is not an image by its name; it must end in {', '.join(EXTENSIONS)}", expected=True
        )
    if "\0" in source:
        raise MisplacedFile("the path has a NUL character; rename the file")
    if len(readable(source).encode()) > MAX_ORIGINAL_BYTES:
        raise MisplacedFile(f"the path is longer than {MAX_ORIGINAL_BYTES} bytes; shorten it")
    if part == "train" and class_name != GOOD:
        raise MisplacedFile("train/ contains only good images, in train/good/")
    if part == "ground_truth" and class_name == GOOD:
        raise MisplacedFile("good images have no ground truth", expected=True)
    suffix = ""
    if part == "ground_truth":
        stem, suffix = split_mask(stem)
    # The empty piece distinguishes the class's folder from one of the same name below the class.
    safe = safe_stem([*(["", *outside] if outside else []), *below[:-1], stem])
    if len(safe) + len(suffix) + len(extension) > MAX_NAME:
        suffix = ""  # a mask may have the name of its image
    return Placement(source, part, class_name, safe + suffix + extension)


def part_of(folder: str) -> Part | None:
    """Return the part of a dataset that a folder's name denotes, in any case."""
    name = folder.strip().lower().replace("-", "_")
    return next((part for part in PARTS if part == name), None)


def is_image(path: str) -> bool:
    """Return whether a path ends in an extension of an image."""
    return bool(split_extension(path.rpartition("/")[2])[1])
