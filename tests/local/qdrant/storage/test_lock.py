# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from blemish_local.qdrant.errors import StoreUnusable
from blemish_local.qdrant.storage.lock import only_process


def test_a_directory_has_one_holder(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "store"
    with (
        only_process(directory),
        pytest.raises(StoreUnusable, match=rf"{directory} .*process {os.getpid()}; .*--dir"),
        only_process(directory),
    ):
        pass
    with only_process(directory):
        pass


def test_the_holder_named_is_the_last_one(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12345678901\n")
    with only_process(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreUnusable, match=r"file/store cannot be written"),
        only_process(tmp_path / "file/store"),
    ):
        pass
