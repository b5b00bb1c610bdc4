# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish_core.platform.disk import DiskSpace, StoreDisk
from blemish_core.platform.errors import DiskFull

MIN_FREE = 1 << 30


@pytest.mark.parametrize(
    ("space", "shortage"),
    [
        (DiskSpace(MIN_FREE, MIN_FREE), ""),
        (DiskSpace(400_000_000, 8 << 30), "has 400.0 MB free, less than the 1.1 GB of BLEMISH_MIN_FREE"),
        (DiskSpace(0, 8 << 30), "has 0 B free"),
        (DiskSpace(4 << 30, 8 << 30, has_free_files=False), "can hold no more files"),
    ],
)
def test_shortage_names_the_space_and_the_setting(space: DiskSpace, shortage: str) -> None:
    found = StoreDisk(Path("/srv/store"), MIN_FREE).shortage(space)

    assert shortage in found
    assert bool(found) is bool(shortage)


def test_limit_of_zero_disables_the_check() -> None:
    assert StoreDisk(Path("/srv/store"), 0).shortage(DiskSpace(0, 1)) == ""


def test_space_is_that_of_the_disk_on_which_the_store_will_be(tmp_path: Path) -> None:
    disk = StoreDisk(tmp_path / "not" / "yet", 1)

    assert 0 < disk.space().free_bytes <= disk.space().total_bytes
    disk.require_space()
    with pytest.raises(DiskFull, match="free some space"):
        StoreDisk(tmp_path / "not" / "yet", 1 << 60).require_space()
