# SPDX-License-Identifier: Apache-2.0
"""Image files below a folder, without the masks of a dataset."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from blemish_layouts.names import is_hidden_folder, split_mask

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".j2k", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_MASK_FOLDERS = frozenset({"ground_truth", "groundtruth", "mask", "masks"})


def has_suffix(suffixes: frozenset[str] | None) -> Callable[[str], bool]:
    """Return a function that selects file names by their endings in lower case; None selects all."""
    return lambda name: suffixes is None or os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122


def image_files(
    folder: Path, is_image: Callable[[str], bool], exclude: Path | None = None
) -> Iterator[Path]:
    """Yield the images below a folder, in order of their paths.

    Hidden files and folders are left out. So are masks: folders named ``ground_truth`` or ``masks``, and
    files named as an image next to them with a suffix such as ``_mask`` or ``_GT``.

    Args:
        folder: folder to walk through. Links to other folders are not followed.
        is_image: selects files by their names.
        exclude: folder to leave out.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    files: list[Path] = []
    hidden = None if exclude is None else exclude.resolve()
    with os.scandir(folder):
        pass  # raise the error that a walk would ignore
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = [
            name
            for name in folders
            if not is_hidden_folder(name)
            and name.casefold() not in _MASK_FOLDERS
            and (hidden is None or (here / name).resolve() != hidden)
        ]
        images = [name for name in names if is_image(name) and not name.startswith(".")]
        files += (here / name for name in _without_masks(images))
    yield from sorted(files)


def _without_masks(names: Iterable[str]) -> Iterator[str]:
    """Yield file names of one folder, without masks of other images in it."""
    by_stem = {Path(name).stem: name for name in names}
    stems = by_stem.keys()
    for name in names:
        image, suffix = split_mask(Path(name).stem)
        if not suffix or image not in stems:
            yield name
