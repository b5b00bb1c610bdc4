# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import grpc
import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer, write_dataset_folder

from blemish.v1 import dataset_pb2
from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_NONE


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


def test_skipped_images_are_listed_and_the_exit_code_means_partly(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    contents = write_dataset_folder(tmp_path)
    fake.rejected = {"train/good/000.png", "test/crack/000.png"}
    (tmp_path / "test/good/000.png").chmod(0o000)
    (tmp_path / "test/good/dangling.png").symlink_to(tmp_path / "nothing")
    for _ in range(2):
        result = run("dataset", "upload", "tile", tmp_path)
        assert result.exit_code == 7
        assert "skipped train/good/000.png: is empty" in result.stderr
        assert "skipped test/crack/000.png: is empty" in result.stderr
        assert "skipped test/good/dangling.png: cannot be read" in result.stderr
        assert "skipped test/crack/notes.txt" in result.stderr
    result = run("dataset", "upload", "tile", tmp_path, "--json")
    assert result.exit_code == 7
    (uploaded,) = json_lines(result)
    assert uploaded["skipped_count"] - uploaded["expected_count"] == 3 + (os.geteuid() != 0)
    assert uploaded["stored"] == len(contents) - 2 - (os.geteuid() != 0)


def test_import_that_skipped_images_exits_as_an_upload_does(run: Run, fake: FakeServer) -> None:
    complete = run("dataset", "import", "tile", "/srv/tile")
    assert complete.exit_code == 0
    assert "skipped train/good/notes.txt: not an image" in complete.stderr
    fake.rejected = {"train/good/000.png"}
    result = run("dataset", "import", "tile", "/srv/tile")
    assert result.exit_code == 7
    assert "skipped train/good/000.png: is empty" in result.stderr
    assert run("dataset", "import", "tile", "/srv/tile", "--json").exit_code == 7


def test_replace_is_sent_to_the_server(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    for options, replace in (((), False), (("--replace",), True)):
        run("dataset", "upload", "tile", tmp_path, *options)
        first = fake.requests["UploadImages"][0]
        assert (first.skip_rejected, first.replace) == (True, replace)
        run("dataset", "import", "tile", "/srv/tile", *options)
        assert fake.requests["ImportDataset"][-1].replace == replace


def test_odd_names_are_sent_with_safe_ones_and_shown(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    names = ("Image (1).png", "ü.png", "u\u0308.png", "-rf.png", ".1.png", "a\nb\x1b[31m.png", "2026/1.png")
    for name in names:
        (tmp_path / "train/good" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train/good" / name).write_bytes(b"x")
    assert run("dataset", "upload", "tile", tmp_path).exit_code == 0
    sent = [message.image for message in fake.requests["UploadImages"] if message.HasField("image")]
    assert {header.original_path for header in sent} == {f"train/good/{name}" for name in names}
    assert all(header.path.isascii() and header.path.isprintable() for header in sent)
    assert len({header.path for header in sent}) == len(names)
    fake.images = [
        dataset_pb2.DatasetImage(path=header.path, original_path=header.original_path) for header in sent
    ]
    fake.page_size = 10
    shown = run("dataset", "images", "tile").stdout
    assert "train/good/Image (1).png" in shown
    assert r"train/good/a\nb\x1b[31m.png" in shown
    assert "\x1b" not in shown
    originals = [image["original_path"] for image in json_lines(run("dataset", "images", "tile", "--json"))]
    assert "train/good/a\nb\x1b[31m.png" in originals


def test_origin_of_copied_items_is_shown(run: Run, fake: FakeServer) -> None:
    assert "origin" not in run("dataset", "images", "tile").stdout
    origin = fake.images[1].provenance
    origin.item, origin.camera = "items/6f1c2b1e-8f0a-4b7e-9d53-0a4c1f1c7a52", "line-3\x1b"
    origin.label, origin.label_class, origin.author = LABEL_CONFIRMED, "scratch", "maria"
    shown = run("dataset", "images", "tile").stdout
    assert r"6f1c2b1e, line-3\x1b, confirmed scratch, by maria" in shown
    fake.images[1].provenance.label = LABEL_NONE
    fake.images[1].provenance.label_class = ""
    assert "no label, by maria" in run("dataset", "images", "tile").stdout


def write_test_set(at: Path, *classes: str) -> None:
    for path in ("train/good", *(f"test/{name}" for name in classes)):
        (at / path).mkdir(parents=True)
        (at / path / "0.png").write_bytes(b"x")


def test_test_set_without_good_images_is_refused_before_a_dataset_is_created(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    write_test_set(tmp_path, "gut", "Riss")
    refused = run("dataset", "upload", "tile", tmp_path)
    assert refused.exit_code == 2
    assert "Riss, gut" in refused.stderr
    assert "--good NAME" in refused.stderr
    assert "--only-defective" in refused.stderr
    assert not fake.requests["CreateDataset"]
    assert run("dataset", "upload", "tile", tmp_path, "--good", "Gut").exit_code == 0
    sent = [message.image.path for message in fake.requests["UploadImages"] if message.HasField("image")]
    assert [path.rpartition("/")[0] for path in sent] == ["train/good", "test/Riss", "test/good"]
    assert run("dataset", "upload", "tile", tmp_path, "--only-defective").exit_code == 0
    fake.test_classes = ["good"]
    assert run("dataset", "upload", "tile", tmp_path).exit_code == 0


def test_person_at_a_terminal_is_asked_for_the_folder_of_good_images(
    run: Run, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_test_set(tmp_path, "gut", "Riss")
    monkeypatch.setattr("blemish_client.cli.commands.dataset.can_ask", lambda: True)
    asked = run("dataset", "upload", "tile", tmp_path, stdin="gud\ngut\n")
    assert asked.exit_code == 0
    assert "choose one of Riss, gut" in asked.stderr
    sent = [message.image.path for message in fake.requests["UploadImages"] if message.HasField("image")]
    assert [path.rpartition("/")[0] for path in sent] == ["train/good", "test/Riss", "test/good"]
    assert run("dataset", "upload", "tile", tmp_path, stdin="none\n").exit_code == 0

    no_good = CallError(grpc.StatusCode.INVALID_ARGUMENT, "none is good", field="good")
    fake.errors["ImportDataset"] = [no_good]
    assert run("dataset", "import", "tile", "/srv/tile", stdin="gut\n").exit_code == 0
    assert list(fake.requests["ImportDataset"][-1].good) == ["gut"]
    fake.errors["ImportDataset"] = [no_good]
    assert run("dataset", "import", "tile", "/srv/tile", stdin="none\n").exit_code == 0
    assert fake.requests["ImportDataset"][-1].only_defective


def test_masks_and_images_without_a_partner_are_listed(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    fake.unpaired = dataset_pb2.UnpairedFiles(
        masks_count=1,
        masks=["ground_truth/crack/9_mask.png"],
        images_count=7,
        images=[f"test/crack/{n}.png" for n in range(7)],
    )
    for arguments in (("upload", "tile", tmp_path), ("import", "tile", "/srv/tile")):
        result = run("dataset", *arguments)
        assert result.exit_code == 0
        assert "1 mask matches no image by name: ground_truth/crack/9_mask.png" in result.stderr
        assert "7 defective images have no mask" in result.stderr
        assert "test/crack/4.png and 2 more" in result.stderr


def test_upload_without_a_storable_image_leaves_no_new_dataset(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "train/good").mkdir(parents=True)
    (tmp_path / "train/good/0.png").write_bytes(b"")
    fake.rejected = {"train/good/0.png"}
    result = run("dataset", "upload", "tile", tmp_path)
    assert result.exit_code == 2
    assert "no image was stored, so no dataset was created" in result.stderr
    assert "skipped train/good/0.png: is empty" in result.stderr
    assert [request.name for request in fake.requests["DeleteDataset"]] == ["datasets/tile"]


def test_images_are_listed_by_prefix(run: Run, fake: FakeServer) -> None:
    shown = run("dataset", "images", "tile", "--under", "train/").stdout
    assert "train/good/2.png" in shown
    assert "8 x 6" in shown
    requests = fake.requests["ListImages"]
    assert [(each.dataset, each.path_prefix) for each in requests] == [("datasets/tile", "train/")] * 2
    fake.images = []
    assert run("dataset", "images", "tile").stdout == "no images\n"


def test_white_level_goes_with_new_datasets_uploads_and_imports(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    write_dataset_folder(tmp_path)
    assert run("dataset", "upload", "new", tmp_path, "--white-level", "4095").exit_code == 0
    assert fake.requests["CreateDataset"][0].white_level == 4095
    assert not fake.requests["UpdateDataset"]
    fake.errors["CreateDataset"] = [CallError(grpc.StatusCode.ALREADY_EXISTS, "the id is taken")]
    assert run("dataset", "upload", "d", tmp_path, "--white-level", "1023").exit_code == 0
    assert [request.white_level for request in fake.requests["UpdateDataset"]] == [1023]
    assert run("dataset", "import", "d", "/srv/tile", "--white-level", "4095").exit_code == 0
    assert fake.requests["ImportDataset"][0].white_level == 4095


def test_update_sets_the_white_level(run: Run, fake: FakeServer) -> None:
    result = run("dataset", "update", "tile", "--white-level", "4095")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "datasets/tile: white level 4095"
    assert "as each image states it" in run("dataset", "update", "tile", "--white-level", "0").stdout
    assert [request.name for request in fake.requests["UpdateDataset"]] == ["datasets/tile"] * 2


def test_suspects_are_listed_with_the_command_that_removes_them(run: Run, fake: FakeServer) -> None:
    shown = run("dataset", "suspects", "tile", "--limit", 5)
    assert shown.exit_code == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "good images of tile by tile/3, threshold 18.100"
    assert "train/good/a b.png held out 1 of 20 18.100 13.100 5.000 13.100 stands out" in lines
    assert "train/good/1.png learned 1 of 1 3.500 - - -" in lines
    assert lines[-1] == "if an image is not good: blemish dataset remove tile 'train/good/a b.png'"
    (request,) = fake.requests["ListSuspects"]
    assert (request.dataset, request.model, request.limit) == ("datasets/tile", "", 5)
    (answer,) = json_lines(run("dataset", "suspects", "tile", "--model", "tile/2", "--json"))
    assert answer["suspects"][0]["threshold_without"] == 13.1
    assert fake.requests["ListSuspects"][1].model == "models/tile/versions/2"
