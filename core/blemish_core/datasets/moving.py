# SPDX-License-Identifier: Apache-2.0
"""The new paths of images that move to another class, and of their masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blemish_core.datasets.layout import GOOD, LayoutPath
from blemish_core.datasets.records import IndexEntry
from blemish_core.platform.errors import AlreadyExists, InvalidRequest
from blemish_layouts.names import MAX_NAME, split_extension

_DIGEST_DIGITS = 8


@dataclass(frozen=True)
class Move:
    """A file and its new entry, which is the same if it stays."""

    entry: IndexEntry
    target: IndexEntry

    @property
    def stays(self) -> bool:
        return self.entry.path == self.target.path


@dataclass(frozen=True)
class MovePlan:
    """The moves of images and masks."""

    images: tuple[Move, ...]
    """One for each image, in the order of the request."""
    masks: tuple[Move, ...] = ()
    deleted_masks: tuple[IndexEntry, ...] = ()
    """Masks of images that are good now."""

    @property
    def moved(self) -> list[Move]:
        """Images and masks that change their paths."""
        return [move for move in (*self.images, *self.masks) if not move.stays]


def plan_moves(
    images: Sequence[tuple[IndexEntry, Sequence[IndexEntry]]],
    folder: str,
    find: Callable[[str], IndexEntry | None],
    masks_of: Callable[[LayoutPath], Sequence[IndexEntry]],
) -> MovePlan:
    """Return the moves of images with their masks to a folder.

    Args:
        images: entries of images, each with those of its masks.
        folder: train/good or test/CLASS.
        find: returns the entry at a path.
        masks_of: returns the masks that belong to an image at a path, or would if it existed.

    Raises:
        InvalidRequest: if the folder is not one of images, an entry is a mask, or an image differs in size
            from a mask of the class.
        AlreadyExists: if the class has the image under both names, or another mask for it.
    """
    _check_folder(folder)
    taken: set[str] = set()
    moves: list[Move] = []
    masks: dict[str, Move] = {}
    deleted: dict[str, IndexEntry] = {}
    for image, its_masks in images:
        if image.layout_path.part == "ground_truth":
            raise InvalidRequest(
                f"{image.shown} is a mask, which moves with its image; name the image", field="paths"
            )
        target = _target(image, folder, lambda path: path in taken or find(path) is not None)
        move = Move(image, target)
        taken.add(target.path)
        moves.append(move)
        if move.stays:
            continue
        if target.layout_path.label == GOOD:
            deleted |= {mask.path: mask for mask in its_masks}
            continue
        for mask in masks_of(target.layout_path):
            if (mask.width, mask.height) != (image.width, image.height):
                raise InvalidRequest(
                    f"{image.shown} is {image.width} x {image.height} px, but {mask.shown} is "
                    f"{mask.width} x {mask.height}; an image and its mask must have the same size",
                    field="paths",
                )
        for mask in its_masks:  # images of equal stems share a mask, which follows the first one
            if mask.path not in masks:
                masks[mask.path] = _mask_move(mask, image, target, find)
    return MovePlan(tuple(moves), tuple(masks.values()), tuple(deleted.values()))


def _check_folder(folder: str) -> None:
    part, _, class_name = folder.partition("/")
    if part not in ("train", "test") or not class_name or "/" in class_name:
        raise InvalidRequest(
            f"{folder!r} is not a folder of images; use train/good or test/CLASS", field="folder"
        )
    LayoutPath.parse(f"{folder}/0.png")


def _target(image: IndexEntry, folder: str, is_taken: Callable[[str], bool]) -> IndexEntry:
    name = image.layout_path.name
    path = f"{folder}/{name}"
    if path == image.path:
        return image
    if is_taken(path):
        stem, extension = split_extension(name)
        digest = f"-{image.sha256[:_DIGEST_DIGITS]}{extension}"
        path = f"{folder}/{stem[: MAX_NAME - len(digest)]}{digest}"
        if is_taken(path):
            raise AlreadyExists(f"{folder} already has {image.shown} under both names; remove one of them")
    return _moved(image, path)


def _mask_move(
    mask: IndexEntry,
    image: IndexEntry,
    target: IndexEntry,
    find: Callable[[str], IndexEntry | None],
) -> Move:
    old_stem, _ = split_extension(image.layout_path.name)
    new_stem, _ = split_extension(target.layout_path.name)
    name = new_stem + mask.layout_path.name.removeprefix(old_stem)
    path = f"ground_truth/{target.layout_path.class_name}/{name}"
    if len(name) > MAX_NAME or find(path) is not None:
        raise AlreadyExists(f"{path} cannot be the mask of {target.path}; remove one of the masks first")
    return Move(mask, _moved(mask, path))


def _moved(entry: IndexEntry, path: str) -> IndexEntry:
    """Return an entry at another path, with its first path as the original one."""
    original = entry.original or entry.path
    return entry.model_copy(update={"path": path, "original": "" if original == path else original})
