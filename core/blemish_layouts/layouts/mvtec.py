# SPDX-License-Identifier: Apache-2.0
"""The layouts of MVTec AD, MVTec LOCO AD, MVTec AD 2, BTAD and KolektorSDD2.

Sources: Bergmann et al., "MVTec AD", CVPR 2019. Bergmann et al., "Beyond Dents and Scratches", IJCV 2022.
Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025. Mishra et al., "VT-ADL", ISIE 2021. Bozic et al.,
"Mixed supervision for surface-defect detection", Computers in Industry 2021.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from blemish_layouts.black_png import is_black
from blemish_layouts.builder import FolderView, PlanBuilder
from blemish_layouts.dataset_plan import DatasetPlan
from blemish_layouts.names import GOOD, MAX_NAME, split_extension, split_mask
from blemish_layouts.placement import MisplacedFile, Placement, class_from, is_image, part_of, place

_VALIDATION, _PUBLIC = "validation", "test_public"
_DEFECT = "defect"
_MAX_MASK_BYTES = 32 << 20


def is_mvtec_ad(view: FolderView) -> bool:
    return any(map(part_of, view.top))


def arrange_mvtec_ad(view: FolderView, layout: str = "mvtec-ad") -> DatasetPlan:
    """Arrange ``train/good``, ``test/CLASS`` and ``ground_truth/CLASS``, BTAD's ``ok`` and ``ko`` too.

    Images of ``validation/good`` become training images.
    """
    plan = PlanBuilder(layout)
    loco = layout == "mvtec-loco"
    tests = {path.partition("/")[2].rpartition(".")[0]: path for path in view.files if _in_test(path)}
    for source in view.files:
        top, *below = source.split("/")
        if top.lower() == _VALIDATION and len(below) > 1:
            _add_validation(plan, view, source, below)
        elif part_of(top) is not None and below:
            folder = "/".join(below[:-1])
            if loco and part_of(top) == "ground_truth" and folder in tests:
                plan.mask(source, tests[folder])
                continue
            try:
                plan.add(place(source, view.conversion.good))
            except MisplacedFile as error:
                plan.leave(source, str(error), expected=error.expected)
    renamed = _with_masks_renamed(list(plan.placements.values()))
    plan.placements = {file.path: file for file in renamed}
    return plan.build()


def is_mvtec_loco(view: FolderView) -> bool:
    """Return whether masks are in folders named as their images."""
    tests = {path.partition("/")[2].rpartition(".")[0] for path in view.files if _in_test(path)}
    masks = (path for path in view.files if part_of(path.partition("/")[0]) == "ground_truth")
    return any(path.partition("/")[2].rpartition("/")[0] in tests for path in masks)


def arrange_mvtec_loco(view: FolderView) -> DatasetPlan:
    return arrange_mvtec_ad(view, "mvtec-loco")


def is_mvtec_ad_2(view: FolderView) -> bool:
    return _PUBLIC in view.top


def arrange_mvtec_ad_2(view: FolderView) -> DatasetPlan:
    """Arrange ``train/good``, ``validation/good`` and ``test_public``; the private tests have no labels."""
    plan = PlanBuilder("mvtec-ad-2")
    unlabelled = []
    for source in view.files:
        top, *below = source.split("/")
        if top == _VALIDATION and len(below) > 1:
            _add_validation(plan, view, source, below)
            continue
        if top.startswith("test_") and top != _PUBLIC:
            unlabelled.append(source)
            continue
        if top == _PUBLIC:
            shown = "/".join(below if below and part_of(below[0]) == "ground_truth" else ["test", *below])
        else:
            shown = source
        if part_of(shown.partition("/")[0]) is not None:
            try:
                plan.add(replace(place(shown, view.conversion.good), source=source))
            except MisplacedFile as error:
                plan.leave(source, str(error), expected=error.expected)
    plan.leave_folders(unlabelled, "its images have no labels")
    return plan.build()


def is_ksdd2(view: FolderView) -> bool:
    """Return whether masks with the suffix ``_GT`` are next to images."""
    return any(
        path.replace("_GT.", ".") in view.paths
        for path in view.files
        if "_GT." in path and path.count("/") == 1 and part_of(path.partition("/")[0]) in ("train", "test")
    )


def arrange_ksdd2(view: FolderView) -> DatasetPlan:
    """Arrange ``train`` and ``test`` with masks next to the images. An image with a black mask is good."""
    plan = PlanBuilder("ksdd2")
    masks = {}
    for source in view.files:
        stem, extension = split_extension(source)
        if extension and split_mask(stem)[1]:
            masks[split_mask(stem)[0]] = source
    are_masks = set(masks.values())
    for source in view.files:
        top, *below = source.split("/")
        part = part_of(top)
        if part not in ("train", "test") or not below or source in are_masks:
            continue
        if not is_image(source):
            plan.leave(source, "is not an image by its name", expected=True)
            continue
        mask = masks.get(split_extension(source)[0])
        good = True if mask is None else _is_black(view, mask)
        if good is None:
            plan.leave(source, "its mask cannot be read, so its class is not clear; save it as a grey PNG")
        elif good:
            plan.image(source, part, GOOD, below)
        elif part == "train":
            plan.leave(source, "is defective, and training images must be good", expected=True)
        else:
            plan.image(source, part, _DEFECT, below)
            if mask is not None:
                plan.mask(mask, source)
    return plan.build()


def _is_black(view: FolderView, path: str) -> bool | None:
    try:
        return is_black(view.read(path, _MAX_MASK_BYTES))
    except OSError:
        return None


def _in_test(path: str) -> bool:
    return is_image(path) and part_of(path.partition("/")[0]) == "test"


def _add_validation(plan: PlanBuilder, view: FolderView, source: str, below: Sequence[str]) -> None:
    if class_from(below[0], view.conversion.good) == GOOD:
        plan.image(source, "train", GOOD, below[1:], [_VALIDATION, below[0]])
    else:
        plan.leave(source, "validation/ contains only good images, in validation/good/")


def _with_masks_renamed(files: Sequence[Placement]) -> list[Placement]:
    """Name masks and their classes as their images where only case or normal form differ."""
    images: dict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    exact = set()
    for file in files:
        if file.part == "test":
            images[file.folded()].add((file.class_name, file.stem))
            exact.add((file.class_name, file.stem))
    taken = {file.path for file in files}
    renamed = []
    for file in files:
        if file.part == "ground_truth":
            stem, suffix = split_mask(file.stem)
            candidates = images.get(file.folded(), set())
            if (
                exact.isdisjoint([(file.class_name, stem), (file.class_name, file.stem)])
                and len(candidates) == 1
            ):
                ((class_name, image),) = candidates
                name = f"{image}{suffix}{file.extension}"
                moved = replace(file, class_name=class_name, name=name)
                if moved.path not in taken and len(name) <= MAX_NAME:
                    taken.add(moved.path)
                    file = moved
        renamed.append(file)
    return renamed
