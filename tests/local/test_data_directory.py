# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from blemish_local.data_directory import DataDirectory, DirectoryUnusable, claim


def test_claim_creates_the_folder_and_records_its_holder(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "not" / "yet")

    with claim(data):
        assert data.lock.read_text() == f"{os.getpid()}\n"
        assert all(folder.is_dir() for folder in (data.store, data.logs, data.run))


def test_second_claim_fails_with_the_holder_and_a_remedy(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)

    with (
        claim(data),
        pytest.raises(DirectoryUnusable, match=rf"process {os.getpid()}; stop it .* --data"),
        claim(data, wait_s=0.05),
    ):
        pass

    with claim(data):
        pass


def test_inherited_descriptor_holds_the_folder(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    with claim(data) as held:
        inherited = os.dup(held)

    with pytest.raises(DirectoryUnusable, match="in use"), claim(data, wait_s=0.05):
        pass
    os.close(inherited)

    with claim(data):
        pass


@pytest.mark.parametrize("obstacle", ["", "logs"])
def test_folder_that_cannot_be_written_is_reported(tmp_path: Path, obstacle: str) -> None:
    root = tmp_path / "data"
    if obstacle:
        root.mkdir()
    (root / obstacle).write_text("a file in the folder's place")

    with (
        pytest.raises(DirectoryUnusable, match=rf"{root} cannot be written .* --data"),
        claim(DataDirectory(root)),
    ):
        pass
