# SPDX-License-Identifier: Apache-2.0
"""Folders of good images, of defective images and of masks, by their names or as a person names them."""

from collections import defaultdict
from collections.abc import Collection

from blemish_layouts.builder import FolderView, PlanBuilder
from blemish_layouts.dataset_plan import DatasetPlan, NotADataset
from blemish_layouts.layouts.splitting import is_test
from blemish_layouts.names import GOOD, GOOD_NAMES, is_good, split_extension, split_mask
from blemish_layouts.placement import class_from, is_image

_BAD = frozenset(
    {
        "ng",
        "nok",
        "ko",
        "bad",
        "defect",
        "defects",
        "defective",
        "anomaly",
        "anomalous",
        "abnormal",
        "reject",
    }
)
_MASKS = frozenset({"mask", "masks", "gt", "ground_truth", "groundtruth", "labels"})


def is_ok_ng(view: FolderView) -> bool:
    """Return whether there is a folder of good and one of defective images, by their names."""
    good = view.conversion.good
    return any(is_good(name, good) for name in view.top) and any(
        name.strip().lower() in _BAD for name in view.top
    )


def arrange_flat(view: FolderView) -> DatasetPlan:
    """Arrange good images, in folders or not, as training images."""
    plan = PlanBuilder("flat")
    for source in view.files:
        *folders, name = source.split("/")
        plan.image(source, "train", GOOD, [name], folders)
    return plan.build()


def arrange_folders(view: FolderView) -> DatasetPlan:
    """Arrange folders of good and defective images and of masks.

    One in five good images is for testing. Folders below one of defective images name its classes if they
    have a letter in their names; images outside of them have the folder's own class.

    Raises:
        NotADataset: if a folder that a person names does not exist.
    """
    chosen = view.conversion
    plan = PlanBuilder("folders" if chosen.bad or chosen.masks else "ok-ng")
    good = _folders(view, chosen.good, GOOD_NAMES, "--good")
    bad = _folders(view, chosen.bad, _BAD, "--bad")
    masks = _folders(view, chosen.masks, _MASKS, "--masks")
    tests = _good_tests(view, good, bad, masks)
    images: dict[str, set[str]] = defaultdict(set)
    found_masks, others = [], []
    for source in view.files:
        if (folder := _inside(source, masks)) is not None:
            found_masks.append((source, source.removeprefix(f"{folder}/")))
        elif not is_image(source):
            plan.leave(source, "is not an image by its name", expected=True)
        elif (folder := _inside(source, bad)) is not None:
            _add_defective(plan, source, folder)
            for key in _keys(source, folder):
                images[key].add(source)
        elif (folder := _inside(source, good)) is not None:
            *_, name = source.split("/")
            outside = source.split("/")[:-1]
            plan.image(source, "test" if source in tests else "train", GOOD, [name], outside)
        else:
            others.append(source)
    for source, below in found_masks:
        if not is_image(source):
            plan.leave(source, "is not an image by its name", expected=True)
            continue
        candidates = next((images[key] for key in _mask_keys(below) if images.get(key)), set())
        if len(candidates) == 1:
            plan.mask(source, min(candidates))
        else:
            reason = "several images" if candidates else "no defective image"
            plan.leave(source, f"matches {reason} by its name")
    plan.leave_folders(others, "in no folder of good or defective images")
    return plan.build()


def _good_tests(
    view: FolderView, good: Collection[str], bad: Collection[str], masks: Collection[str]
) -> set[str]:
    """Return the good images for testing, at least one of several."""
    images = [
        path
        for path in view.files
        if is_image(path) and _inside(path, good) and not _inside(path, bad) and not _inside(path, masks)
    ]
    return {path for path in images if is_test(path)} or set(images[1:2])


def _folders(view: FolderView, named: Collection[str], usual: Collection[str], option: str) -> list[str]:
    """Return the folders that a person names, or else those at the top with a usual name."""
    folders = {folder.strip("/").removeprefix("./") for folder in named}
    for folder in folders:
        if not any(path.startswith(f"{folder}/") for path in view.files):
            raise NotADataset(f"there is no folder {folder} with files; correct {option}")
    return sorted(folders or (name for name in view.top if name.strip().lower() in usual))


def _inside(source: str, folders: Collection[str]) -> str | None:
    """Return the innermost of the folders that contain a file."""
    return max((each for each in folders if source.startswith(f"{each}/")), key=len, default=None)


def _add_defective(plan: PlanBuilder, source: str, folder: str) -> None:
    below = source.removeprefix(f"{folder}/").split("/")
    named = len(below) > 1 and any(map(str.isalpha, below[0]))
    class_name = class_from(below[0] if named else folder.rpartition("/")[2])
    if class_name == GOOD:
        plan.leave(source, "is in a folder of good images within one of defective images")
        return
    plan.image(source, "test", class_name, [below[-1]], source.split("/")[:-1])


def _keys(source: str, folder: str) -> list[str]:
    """Return the names by which a mask may find an image, the most specific first."""
    stem = split_extension(source)[0]
    below = stem.removeprefix(f"{folder}/")
    return list(dict.fromkeys([stem, below, below.rpartition("/")[2]]))


def _mask_keys(below: str) -> list[str]:
    bare = split_extension(below)[0]
    stem = split_mask(bare)[0]
    return [bare, stem, bare.rpartition("/")[2], stem.rpartition("/")[2]]
