# SPDX-License-Identifier: Apache-2.0
"""Folders as people have them: bad files, odd names and replaced images, against the running stack."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.integration.conftest import RunningStack
from tests.support.cli import json_lines, run_against

from blemish.v1.dataset_pb2 import ImportDatasetResponse, UploadImagesResponse
from blemish.v1.search_pb2 import LABEL_CONFIRMED
from blemish_client import Client
from blemish_client.errors import InvalidArgument, NotFound

ODD = ("Image (1).png", "Bild 01.png", "ü.png", "u\u0308.png", "_0001.png", "-rf.PNG", ".1.png", "a\nb.png")


def picture(number: int, side: int = 32, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def mask(side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.eye(side, dtype=np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def empty_mask(side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(stack: RunningStack, request: pytest.FixtureRequest) -> Path:
    """Return a new folder below the import root."""
    name: str = request.node.name
    return stack.surfaces / "uploads" / name.replace("[", "-").replace("]", "")


def send(client: Client, how: str, id: str, folder: Path) -> UploadImagesResponse | ImportDatasetResponse:
    if how == "import":
        return client.import_dataset(id, str(folder))
    if id not in {dataset.name.partition("/")[2] for dataset in client.datasets()}:
        client.create_dataset(id)
    return client.upload(id, folder)


@pytest.mark.parametrize("how", ["upload", "import"])
def test_bad_files_are_listed_and_the_others_stored(client: Client, folder: Path, how: str) -> None:
    good = {f"train/good/{number}.png": picture(number) for number in range(5)}
    bad = {
        "train/good/01_truncated.png": picture(9)[:-40],
        "train/good/02_text.png": b"hello",
        "train/good/03_empty.png": b"",
        "train/good/04_gif.png": picture(9, kind="GIF"),
        "train/good/05_huge.png": os.urandom(3 << 20),
        "train/bad/0.png": picture(9),
        "test/stray.png": picture(9),
    }
    write(folder, good | bad | {"train/good/notes.txt": b"x"})
    (folder / "train/good/06_dangling.png").symlink_to("nothing.png")
    for stored in (5, 0):
        result = send(client, how, f"bad-files-{how}", folder)
        assert (result.stored, result.unchanged) == (stored, 5 - stored)
        assert result.dataset.train_images == 5
        reasons = {file.path: file.reason for file in result.skipped if not file.expected}
        assert reasons.keys() == {*bad, "train/good/06_dangling.png"}
        assert all(reasons.values())
        assert not any(reason.startswith(f"{path}:") for path, reason in reasons.items())
        assert [file.path for file in result.skipped if file.expected] == ["train/good/notes.txt"]
        assert (result.skipped_count, result.expected_count) == (9, 1)


@pytest.mark.parametrize("how", ["upload", "import"])
def test_odd_names_are_stored_and_shown(client: Client, folder: Path, how: str) -> None:
    contents = {f"train/good/{name}": picture(number) for number, name in enumerate(ODD)}
    contents |= {
        "train/good/2026-01-01/001.png": picture(20),
        "train/good/2026-01-02/001.png": picture(21),
        "test/划痕/1.png": picture(22),
        "test/Bruch am Rand/ü (1).png": picture(23),
        "test/OK/1.png": picture(24),
        "test/Good/1.png": picture(25),
        "ground_truth/划痕/1_GT.png": mask(),
        "ground_truth/Bruch am Rand/ü (1)-mask.png": mask(),
    }
    write(folder, contents)
    undecodable = os.fsencode(folder) + b"/train/good/\xfc.png"
    Path(os.fsdecode(undecodable)).write_bytes(picture(30))
    id = f"odd-names-{how}"
    for stored in (len(contents) + 1, 0):
        result = send(client, how, id, folder)
        assert (result.stored, result.skipped_count) == (stored, 0)
    classes = {each.class_name: each.images for each in result.dataset.test_images}
    assert classes == {"划痕": 1, "Bruch_am_Rand": 1, "good": 2}
    assert (result.unpaired.masks_count, result.unpaired.images_count) == (0, 0)
    images = list(client.images(id))
    shown = {image.original_path or image.path for image in images}
    assert shown == {*contents, r"train/good/\xfc.png"}
    client.delete_images(id, ["train/good/a\nb.png", "test/Bruch am Rand/ü (1).png"])
    assert len(list(client.images(id))) == len(images) - 3


@pytest.mark.parametrize("how", ["upload", "import"])
def test_replaced_image_is_listed_and_taken_on_request(client: Client, folder: Path, how: str) -> None:
    id = f"replaced-{how}"
    write(folder, {f"train/good/{number}.png": picture(number) for number in range(4)})
    send(client, how, id, folder)
    before = client.dataset(id).snapshot
    write(folder, {"train/good/1.png": picture(11), "train/good/9.png": picture(9)})
    result = send(client, how, id, folder)
    assert (result.stored, result.unchanged, result.replaced) == (1, 3, 0)
    ((path, reason),) = ((file.path, file.reason) for file in result.skipped)
    assert path == "train/good/1.png"
    assert "--replace" in reason
    run = run_against(client.target)
    replaced = run("dataset", how, id, folder, "--replace", "--json")
    assert replaced.exit_code == 0
    assert json_lines(replaced)[0]["replaced"] == 1
    assert client.dataset(id).snapshot != before
    assert run("dataset", how, id, folder, "--replace").exit_code == 0


def test_replaced_image_leaves_every_index(client: Client, stack: RunningStack, folder: Path) -> None:
    client.import_dataset("moved-on", str(stack.surfaces / "tile"))
    model = client.wait(client.train("moved-on", model_id="moved-on", promote=True)).result.model_version
    assert client.wait(client.embed(model, "moved-on")).error == ""
    path = next(
        image.path for image in client.images("moved-on", under="test/") if "good" not in image.path
    )
    frame = (stack.surfaces / "tile" / path).read_bytes()
    item = next(iter(client.search(frame, "moved-on", 1)))
    assert item.path == path
    client.label(item.item, "moved-on", LABEL_CONFIRMED, "dent")
    items = len(list(client.items("moved-on")))
    write(folder, {path: picture(5, side=128)})
    result = client.upload("moved-on", folder, replace=True)
    assert (result.replaced, result.skipped_count) == (1, 0)
    assert result.unpaired.images_count == 0, "the mask has the size of the new image"
    assert len(list(client.items("moved-on"))) == items - 1
    assert path not in {hit.path for hit in client.search(frame, "moved-on", 100)}
    assert client.wait(client.embed(model, "moved-on")).error == ""
    assert len(list(client.items("moved-on"))) == items
    assert not list(client.items("moved-on", where="label = CONFIRMED")), "a label is about one content"


def test_folder_that_cannot_become_a_dataset_leaves_none(client: Client, folder: Path) -> None:
    run = run_against(client.target)
    write(folder / "misfit", {"notes.txt": b"x", "a/b/c/1.png": picture(1)})
    write(folder / "broken", {"train/good/0.png": b"x", "train/good/1.png": b""})
    write(folder / "no-good", {"train/good/0.png": picture(0), "test/gut/0.png": picture(1)})
    for name in ("misfit", "broken", "no-good"):
        for how in ("upload", "import"):
            result = run("dataset", how, "never", folder / name)
            assert result.exit_code == 2, result.output
            with pytest.raises(NotFound):
                client.dataset("never")
    with pytest.raises(InvalidArgument, match="--only-defective") as refusal:
        client.import_dataset("never", str(folder / "no-good"))
    assert refusal.value.field == "good"
    done = run("dataset", "import", "gut", folder / "no-good", "--good", "gut", "--json")
    assert [each["class_name"] for each in json_lines(done)[0]["dataset"]["test_images"]] == ["good"]
    assert run("dataset", "upload", "all-bad", folder / "no-good", "--only-defective").exit_code == 0


def test_folders_in_other_layouts_become_the_same_dataset_by_upload_and_import(
    client: Client, folder: Path
) -> None:
    run = run_against(client.target)
    ad2 = {f"{part}/good/{n}_regular.png": picture(n) for n, part in enumerate(("train", "validation"))}
    ad2 |= {"test_public/good/0.png": picture(2), "test_public/bad/0.png": picture(3)}
    ad2 |= {"test_public/ground_truth/bad/0_mask.png": mask(), "test_private/0.png": picture(4)}
    loco = {"train/good/0.png": picture(0), "test/good/0.png": picture(1)}
    loco |= {"test/logical_anomalies/0.png": picture(2)}
    loco |= {f"ground_truth/logical_anomalies/0/{n}.png": mask() for n in range(2)}
    ksdd2 = {"train/1.png": picture(1), "train/1_GT.png": empty_mask(), "test/2.png": picture(2)}
    ksdd2 |= {"test/2_GT.png": empty_mask(), "test/3.png": picture(3), "test/3_GT.png": mask()}
    table = b"path,split,class,mask\na/1.png,train,ok,\na/2.png,test,ok,\nb/1.png,test,cut,m.png\n"
    csv = {"a/1.png": picture(1), "a/2.png": picture(2), "b/1.png": picture(3), "m.png": mask()}
    for name, contents, counts in (
        ("mvtec-ad-2", ad2, (2, {"good": 1, "bad": 1}, 1)),
        ("mvtec-loco", loco, (1, {"good": 1, "logical_anomalies": 1}, 2)),
        ("ksdd2", ksdd2, (1, {"good": 1, "defect": 1}, 1)),
        ("csv", csv | {"all.csv": table}, (1, {"good": 1, "cut": 1}, 1)),
    ):
        snapshots = set()
        for how in ("upload", "import"):
            id = f"{name}-by-{how}"
            result = run("dataset", how, id, write(folder / name, contents))
            assert result.exit_code == 0, result.stderr
            assert f"layout: {name}" in result.stderr
            dataset = client.dataset(id)
            tested = {each.class_name: each.images for each in dataset.test_images}
            assert (dataset.train_images, tested, dataset.masks) == counts
            snapshots.add(dataset.snapshot)
        assert len(snapshots) == 1
    again = run("dataset", "upload", "mvtec-ad-2-by-upload", folder / "mvtec-ad-2")
    assert "skipped test_private: 1 image: its images have no labels" in again.stderr


@pytest.mark.parametrize("how", ["upload", "import"])
def test_masks_and_images_without_a_partner_are_listed(client: Client, folder: Path, how: str) -> None:
    suffixes = ("", "_mask", "_GT", "_label", "-mask")
    contents = {f"test/crack/{number}.png": picture(number) for number in range(6)}
    contents |= {
        f"ground_truth/crack/{number}{suffix}.png": mask() for number, suffix in enumerate(suffixes)
    }
    contents |= {"test/good/0.png": picture(8), "ground_truth/crack/77_mask.png": mask()}
    result = send(client, how, f"unpaired-{how}", write(folder, contents))
    assert list(result.unpaired.images) == ["test/crack/5.png"]
    assert list(result.unpaired.masks) == ["ground_truth/crack/77_mask.png"]
    assert (result.unpaired.images_count, result.unpaired.masks_count) == (1, 1)
