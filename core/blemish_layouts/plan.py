# SPDX-License-Identifier: Apache-2.0
"""The choice of a folder's layout."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blemish_layouts.builder import FolderView
from blemish_layouts.dataset_plan import (
    AS_NAMED,
    Conversion,
    DatasetPlan,
    LeftOut,
    NoGoodClass,
    NotADataset,
)
from blemish_layouts.layouts import folders, mvtec, real_iad, table, visa

__all__ = [
    "AS_NAMED",
    "LAYOUTS",
    "Conversion",
    "DatasetPlan",
    "LeftOut",
    "NoGoodClass",
    "NotADataset",
    "plan",
]


@dataclass(frozen=True)
class _KnownLayout:
    name: str
    arrange: Callable[[FolderView], DatasetPlan]
    fits: Callable[[FolderView], bool] = lambda view: False
    """Returns whether a folder has the layout. The first layout that fits is used."""


def _is_mapped(view: FolderView) -> bool:
    return bool(view.conversion.bad or view.conversion.masks)


_LAYOUTS = (
    _KnownLayout("folders", folders.arrange_folders, _is_mapped),
    _KnownLayout("visa", visa.arrange_visa, visa.is_visa),
    _KnownLayout("real-iad", real_iad.arrange_real_iad, real_iad.is_real_iad),
    _KnownLayout("mvtec-ad-2", mvtec.arrange_mvtec_ad_2, mvtec.is_mvtec_ad_2),
    _KnownLayout("ksdd2", mvtec.arrange_ksdd2, mvtec.is_ksdd2),
    _KnownLayout("mvtec-loco", mvtec.arrange_mvtec_loco, mvtec.is_mvtec_loco),
    _KnownLayout("mvtec-ad", mvtec.arrange_mvtec_ad, mvtec.is_mvtec_ad),
    _KnownLayout("btad", mvtec.arrange_mvtec_ad),
    _KnownLayout("ok-ng", folders.arrange_folders, folders.is_ok_ng),
    _KnownLayout("csv", table.arrange_table, table.is_table),
    _KnownLayout("flat", folders.arrange_flat),
)
LAYOUTS = tuple(layout.name for layout in _LAYOUTS)


def plan(files: Iterable[str], conversion: Conversion, read: Callable[[str, int], bytes]) -> DatasetPlan:
    """Arrange the files of a folder.

    Args:
        files: paths with slashes below the folder, without hidden files.
        conversion: the choices of a person.
        read: returns a file of at most a number of bytes, or raises OSError.

    Raises:
        NotADataset: if the folder has no images at places that can be recognised.
    """
    view = FolderView(tuple(sorted(files)), read, conversion)
    if conversion.layout and conversion.layout not in LAYOUTS:
        raise NotADataset(f"there is no layout {conversion.layout!r}; use one of {', '.join(LAYOUTS)}")
    for layout in _LAYOUTS:
        if layout.name == conversion.layout or (not conversion.layout and layout.fits(view)):
            arranged = layout.arrange(view)
            if arranged.files:
                return arranged
            if conversion.layout:
                raise NotADataset(f"it has no images at the places of the layout {layout.name}")
    raise NotADataset(
        "it needs images in train/good/ or test/CLASS/ as in MVTec AD, or another known layout (--layout); "
        "if all of its images are good, use --layout flat"
    )
