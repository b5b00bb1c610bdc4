# SPDX-License-Identifier: Apache-2.0
from itertools import islice
from pathlib import Path

import pytest

from blemish_client.cli.new_files import create_files, create_numbered, numbered_names


def test_names_are_numbered_from_the_second_one() -> None:
    assert list(islice(numbered_names("frame"), 3)) == ["frame", "frame_2", "frame_3"]


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        create_numbered(tmp_path / "sheet.png", content)
    assert (tmp_path / "sheet.png").read_bytes() == b"first"
    assert (tmp_path / "sheet_2.png").read_bytes() == b"second"


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    taken = tmp_path / "frame.json"
    taken.write_bytes(b"taken")
    with pytest.raises(FileExistsError):
        create_files({tmp_path / "frame.png": b"picture", taken: b"answer"})
    assert [each.name for each in tmp_path.iterdir()] == ["frame.json"]
    assert taken.read_bytes() == b"taken"
