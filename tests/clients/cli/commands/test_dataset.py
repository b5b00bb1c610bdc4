# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import grpc
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer, write_dataset_folder


def test_upload(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    result = run("dataset", "upload", "tile", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    (uploaded,) = json_lines(result)
    assert uploaded["stored"] == 6
    assert uploaded["left_out"] == ["test/crack/notes.txt"]
    assert fake.requests["CreateDataset"][0].dataset_id == "tile"


def test_upload_into_existing_dataset(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    there = CallError(grpc.StatusCode.ALREADY_EXISTS, "the id is taken")
    fake.errors["CreateDataset"] = [there, there]
    assert run("dataset", "upload", "d", tmp_path).exit_code == 0
    other = run("dataset", "upload", "d", tmp_path, "--category", "grid")
    assert other.exit_code == 2
    assert "has the category tile, not grid" in other.stderr


def test_upload_of_missing_folder_creates_no_dataset(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    assert run("dataset", "upload", "tile", tmp_path / "nowhere").exit_code == 2
    assert not fake.requests["CreateDataset"]


def test_images_are_listed_by_prefix(run: Run, fake: FakeServer) -> None:
    shown = run("dataset", "images", "tile", "--under", "train/").stdout
    assert "train/good/2.png" in shown
    assert "8 x 6" in shown
    requests = fake.requests["ListImages"]
    assert [(each.dataset, each.path_prefix) for each in requests] == [("datasets/tile", "train/")] * 2
    fake.images = []
    assert run("dataset", "images", "tile").stdout == "no images\n"
