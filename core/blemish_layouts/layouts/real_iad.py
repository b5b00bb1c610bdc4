# SPDX-License-Identifier: Apache-2.0
"""The layout of Real-IAD: a JSON file for each object, and images in several resolutions.

Source: Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial
Anomaly Detection", CVPR 2024.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from blemish_layouts.builder import FolderView, PlanBuilder
from blemish_layouts.dataset_plan import DatasetPlan, NotADataset, listed
from blemish_layouts.names import GOOD, readable
from blemish_layouts.placement import Part, class_from

_USUAL = "realiad_jsons/realiad_jsons/"
_SPLITS: tuple[Part, ...] = ("train", "test")


def is_real_iad(view: FolderView) -> bool:
    return any(path.endswith(".json") and path.startswith("realiad_jsons") for path in view.files)


def arrange_real_iad(view: FolderView) -> DatasetPlan:
    """Arrange the images of one object as its JSON file divides them, in the highest resolution.

    Raises:
        NotADataset: if there is no such file, it is malformed, or several objects and none is chosen.
    """
    tables = [path for path in view.files if path.endswith(".json")]
    usual = [path for path in tables if path.startswith(_USUAL)] or tables
    objects = sorted({_object(path) for path in usual})
    chosen = view.conversion.category or (objects[0] if len(objects) == 1 else "")
    if not objects:
        raise NotADataset("there is no JSON file of Real-IAD; give the folder that contains realiad_jsons/")
    if chosen not in objects:
        raise NotADataset(f"it holds several objects; choose one with --category: {listed(objects)}")
    table = next(path for path in usual if _object(path) == chosen)
    plan = PlanBuilder("real-iad")
    for other in tables:
        if other != table and _object(other) == chosen:
            plan.leave(other, f"is another division of the images; {table} was used", expected=True)
    description = _described(view, table)
    meta = description.get("meta")
    normal = meta.get("normal_class") if isinstance(meta, dict) else None
    base = _base(view, description, chosen, table)
    named = set()
    for split in _SPLITS:
        for sample in _samples(description, split, table):
            image = f"{base}{sample['image_path']}"
            named.add(image)
            folder = sample["anomaly_class"]
            good = folder == normal or class_from(folder, view.conversion.good) == GOOD
            if image not in view.paths:
                plan.leave(image, f"is named in {table}, but does not exist")
            elif split == "train" and not good:
                plan.leave(image, "is defective, and training images must be good", expected=True)
            else:
                *folders, name = str(sample["image_path"]).split("/")
                plan.image(image, split, GOOD if good else class_from(folder), [name], folders)
                if sample["mask_path"]:
                    mask = f"{base}{sample['mask_path']}"
                    named.add(mask)
                    if mask in view.paths:
                        plan.mask(mask, image)
                    else:
                        plan.leave(mask, f"is named in {table}, but does not exist")
    others = [path for path in view.files if path.startswith(base) and path not in named]
    plan.leave_folders(others, f"not named in {readable(table)}")
    used = base.partition("/")[0]
    for top in sorted(view.top - {used}):
        if not top.startswith("realiad_jsons"):
            plan.leave(top, f"is another resolution or object; {used} was used", expected=True)
    return plan.build()


def _object(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _described(view: FolderView, table: str) -> Mapping[str, Any]:
    try:
        description = json.loads(view.text(table))
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        raise NotADataset(f"{readable(table)} is not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise NotADataset(f"{readable(table)} is not an object with train and test")
    return description


def _samples(description: Mapping[str, Any], split: str, table: str) -> Iterator[dict[str, str]]:
    samples = description.get(split, [])
    if not isinstance(samples, list):
        raise NotADataset(f"{readable(table)}: {split} is not a list")
    for number, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("image_path"), str):
            raise NotADataset(f"{readable(table)}: {split}, entry {number} has no image_path")
        mask, kind = sample.get("mask_path"), sample.get("anomaly_class")
        row = {
            "image_path": sample["image_path"],
            "mask_path": mask if isinstance(mask, str) else "",
            "anomaly_class": kind if isinstance(kind, str) else "defect",
        }
        if not all(map(_is_unicode, row.values())):
            raise NotADataset(f"{readable(table)}: {split}, entry {number} is not valid Unicode")
        yield row


def _is_unicode(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which JSON can escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base(view: FolderView, description: Mapping[str, Any], chosen: str, table: str) -> str:
    """Return the folder that the paths of a JSON file begin at, with a slash; the highest resolution."""
    first = next((each for split in _SPLITS for each in _samples(description, split, table)), None)
    if first is None:
        raise NotADataset(f"{readable(table)} names no images")
    end = f"{chosen}/{first['image_path']}"
    bases = [
        path.removesuffix(str(first["image_path"]))
        for path in view.files
        if path == end or path.endswith(f"/{end}")
    ]
    if not bases:
        raise NotADataset(f"there is no image {end}, which {readable(table)} names first")
    return max(bases, key=_resolution)


def _resolution(base: str) -> int:
    """Return the resolution in a folder's name, such as ``realiad_1024``; none is the highest."""
    digits = "".join(filter(str.isdigit, base.partition("/")[0]))
    return int(digits[:9]) if digits else 1 << 30
