# SPDX-License-Identifier: Apache-2.0
"""A table (CSV) with the path, split, class and mask of each image."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO

from blemish_layouts.builder import FolderView, PlanBuilder
from blemish_layouts.dataset_plan import DatasetPlan, NotADataset, listed
from blemish_layouts.layouts.splitting import is_test
from blemish_layouts.names import GOOD, readable
from blemish_layouts.placement import Part, class_from

_COLUMNS = {
    "path": ("path", "image", "image_path", "file", "filename", "file_name"),
    "split": ("split", "subset", "set", "part"),
    "class": ("class", "label", "class_name", "defect", "category"),
    "mask": ("mask", "mask_path", "ground_truth"),
}
_REQUIRED = ("path", "class")
_SPLITS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "train",
    "valid": "train",
    "validation": "train",
}
_DELIMITERS = ",;\t"


def is_table(view: FolderView) -> bool:
    """Return whether there is one table with the necessary columns."""
    tables = _tables(view)
    if len(tables) != 1:
        return False
    try:
        header = next(iter(_parsed(view, tables[0])), [])
    except NotADataset:
        return False
    return all(_column(header, name) is not None for name in _REQUIRED)


def arrange_table(view: FolderView) -> DatasetPlan:
    """Arrange the images that a table names.

    Raises:
        NotADataset: if there is not exactly one table, or a column is missing.
    """
    tables = _tables(view)
    if len(tables) != 1:
        found = listed(tables) if tables else "none"
        raise NotADataset(f"it needs one CSV file with the columns path and class; there is {found}")
    (table,) = tables
    header, *lines = _parsed(view, table) or [[]]
    columns = {name: _column(header, name) for name in _COLUMNS}
    if missing := [name for name in _REQUIRED if columns[name] is None]:
        raise NotADataset(
            f"{readable(table)} has no column {' and '.join(missing)}; name its columns path, class, and "
            "where needed split and mask"
        )
    plan = PlanBuilder("csv")
    named = {table}
    for number, cells in enumerate(lines, start=2):
        row = {name: _cell(cells, at) for name, at in columns.items()}
        if not any(row.values()):
            continue
        image, mask = _path(view, row["path"]), _path(view, row["mask"])
        named |= {image, mask}
        class_name = class_from(row["class"], view.conversion.good) if row["class"] else ""
        part = _SPLITS.get(row["split"].lower()) if row["split"] else _default_part(class_name, image)
        if problem := _problem(view, row, image, class_name, part):
            plan.leave(image or row["path"], f"{readable(table)}, line {number}: {problem}")
            continue
        assert part is not None, "_problem reports a part that is missing"
        if part == "train" and class_name != GOOD:
            plan.leave(image, "is defective, and training images must be good", expected=True)
            continue
        *folders, name = image.split("/")
        plan.image(image, part, class_name, [name], folders)
        if mask in view.paths:
            plan.mask(mask, image)
        elif row["mask"]:
            plan.leave(mask or row["mask"], f"{readable(table)}, line {number}: the mask does not exist")
    plan.leave_folders(
        (path for path in view.files if path not in named), f"not named in {readable(table)}"
    )
    return plan.build()


def read_table(view: FolderView, path: str, columns: Sequence[str]) -> "list[tuple[int, dict[str, str]]]":
    """Return the rows of a table by column, with their line numbers.

    Raises:
        NotADataset: if it cannot be read, or a column is missing.
    """
    header, *lines = _parsed(view, path) or [[]]
    names = [name.strip().lower() for name in header]
    if missing := [name for name in columns if name not in names]:
        raise NotADataset(f"{readable(path)} has no column {' and '.join(missing)}")
    places = {name: names.index(name) for name in columns}
    return [
        (number, {name: _cell(cells, at) for name, at in places.items()})
        for number, cells in enumerate(lines, start=2)
        if any(cells)
    ]


def _tables(view: FolderView) -> list[str]:
    return [path for path in view.files if "/" not in path and path.lower().endswith(".csv")]


def _parsed(view: FolderView, path: str) -> list[list[str]]:
    text = view.text(path)
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        return list(csv.reader(StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise NotADataset(f"{readable(path)} is not a valid CSV file: {error}") from error


def _column(header: Sequence[str], name: str) -> int | None:
    titles = [title.strip().lower() for title in header]
    return next((titles.index(alias) for alias in _COLUMNS[name] if alias in titles), None)


def _cell(cells: Sequence[str], at: int | None) -> str:
    return cells[at].strip() if at is not None and at < len(cells) else ""


def _path(view: FolderView, cell: str) -> str:
    """Return a path of a table with slashes, without the name of the folder itself."""
    path = cell.replace("\\", "/").removeprefix("./")
    below = path.partition("/")[2]
    return below if path not in view.paths and below in view.paths else path


def _default_part(class_name: str, path: str) -> Part:
    """Return the part of an image of a table without splits."""
    return "test" if class_name != GOOD or is_test(path) else "train"


def _problem(
    view: FolderView, row: Mapping[str, str], image: str, class_name: str, part: Part | None
) -> str:
    if not image:
        return "has no path"
    if image not in view.paths:
        return "the image does not exist in the folder"
    if not class_name:
        return "has no class"
    if part is None:
        return f"the split is {row['split']!r}; use train, test or validation"
    return ""
