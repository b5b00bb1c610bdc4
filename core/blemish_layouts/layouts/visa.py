# SPDX-License-Identifier: Apache-2.0
"""The layout of VisA: one table of all objects in ``split_csv/``.

Source: Zou et al., "SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022.
"""

from blemish_layouts.builder import FolderView, PlanBuilder
from blemish_layouts.dataset_plan import DatasetPlan, NotADataset, listed
from blemish_layouts.layouts.table import read_table
from blemish_layouts.names import readable
from blemish_layouts.placement import Part, class_from, is_image

_FOLDER, _USUAL = "split_csv", "split_csv/1cls.csv"
_PARTS: dict[str, Part] = {"train": "train", "test": "test"}


def is_visa(view: FolderView) -> bool:
    return any(path.startswith(f"{_FOLDER}/") and path.endswith(".csv") for path in view.files)


def arrange_visa(view: FolderView) -> DatasetPlan:
    """Arrange the images of one object as ``1cls.csv`` divides them.

    Raises:
        NotADataset: if there is no such table, or several objects and none is chosen.
    """
    tables = [path for path in view.files if path.startswith(f"{_FOLDER}/") and path.endswith(".csv")]
    if not tables:
        raise NotADataset(f"there is no {_USUAL}; give the folder that contains {_FOLDER}/")
    table = _USUAL if _USUAL in tables else tables[0]
    plan = PlanBuilder("visa")
    for other in tables:
        if other != table:
            plan.leave(other, f"is another division of the images; {table} was used", expected=True)
    rows = read_table(view, table, ("object", "split", "label", "image", "mask"))
    objects = sorted({row["object"] for _, row in rows})
    chosen = view.conversion.category or (objects[0] if len(objects) == 1 else "")
    if chosen not in objects:
        raise NotADataset(f"it holds several objects; choose one with --category: {listed(objects)}")
    named = set()
    for line, row in rows:
        image, mask = row["image"], row["mask"]
        if row["object"] != chosen:
            continue
        part = _PARTS.get(row["split"].lower())
        named |= {image, mask}
        if image not in view.paths or part is None:
            problem = "does not exist" if part else f"has the split {row['split']!r}, not train or test"
            plan.leave(image, f"{table}, line {line}: {problem}")
            continue
        *folders, name = image.split("/")
        class_name = class_from(row["label"], view.conversion.good)
        plan.image(image, part, class_name, [name], folders)
        if mask in view.paths:
            plan.mask(mask, image)
        elif mask:
            plan.leave(mask, f"{table}, line {line}: does not exist")
    others = [path for path in view.files if path.startswith(f"{chosen}/") and path not in named]
    plan.leave_folders(others, f"not named in {readable(table)}")
    rest = {path.partition("/")[0] for path in view.files if is_image(path)} - {chosen}
    for name in sorted(rest):
        plan.leave(name, "is another object", expected=True)
    return plan.build()
