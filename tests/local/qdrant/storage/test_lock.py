# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from blemish_local.qdrant.errors import StoreUnusable
from blemish_local.qdrant.storage.lock import only_process


def test_second_holder_is_rejected(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "store"
    with (
        only_process(directory),
        pytest.raises(StoreUnusable, match=rf"{directory} .*process {os.getpid()}; .*--dir"),
        only_process(directory),
    ):
        pass
    with only_process(directory):
        pass


def test_lock_file_contains_the_current_holder(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12345678901\n")
    with only_process(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_unusable_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreUnusable, match=r"file/store cannot be written"),
        only_process(tmp_path / "file/store"),
    ):
        pass
