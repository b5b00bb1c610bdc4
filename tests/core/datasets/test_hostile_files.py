# SPDX-License-Identifier: Apache-2.0
"""Folders to import and files of the store that are not what they seem, or change while they are read."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.support.deep_folder import deep_folder

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import Corrupt, InvalidRequest

Draw = Callable[..., bytes]
GOOD = "train/good"

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    """Return a folder to import with three good images."""
    good = tmp_path / "allowed" / "tile" / GOOD
    good.mkdir(parents=True)
    for number in range(3):
        (good / f"{number}.png").write_bytes(draw(number))
    return good.parents[1]


def imported(store: DatasetStore, folder: Path) -> dict[str, str]:
    """Import a folder whose three images are stored; return the reasons of the other files."""
    result = store.import_folder("tile", "", folder, [folder.parent])
    assert result.stored == 3
    return {file.path: file.reason for file in result.skipped}


def test_special_files_are_skipped_with_the_reason(store: DatasetStore, folder: Path, draw: Draw) -> None:
    good, outside = folder / GOOD, folder.parents[1] / "outside.png"
    outside.write_bytes(draw(9))
    os.mkfifo(good / "fifo.png")
    (good / "out.png").symlink_to(outside)
    (good / "circle.png").symlink_to("circle.png")
    (good / "dangling.png").symlink_to("nothing.png")
    (good / "to-fifo.png").symlink_to("fifo.png")
    (good / "zero.png").symlink_to("/dev/zero")
    (good / "memory.png").symlink_to("/proc/self/mem")
    (good / "up.png").symlink_to("../..")
    (good / "folder.png").mkdir()
    (good / "linked").symlink_to(folder.parents[1])
    with (good / "huge.png").open("wb") as huge:
        huge.truncate(1 << 40)  # sparse
    # The path of a socket is limited to a hundred characters.
    here = os.open(good, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/socket.png")
    os.close(here)
    reasons = imported(store, folder)
    leads_out = {f"{GOOD}/{name}" for name in ("out.png", "zero.png", "memory.png", "linked")}
    assert {path for path, reason in reasons.items() if "leads out of the folder" in reason} == leads_out
    not_regular = {f"{GOOD}/{name}" for name in ("fifo.png", "to-fifo.png", "socket.png")}
    assert {path for path, reason in reasons.items() if "not a regular file" in reason} == not_regular
    assert "BLEMISH_MAX_IMAGE_BYTES" in reasons[f"{GOOD}/huge.png"]
    assert {f"{GOOD}/circle.png", f"{GOOD}/dangling.png", f"{GOOD}/up.png"} < reasons.keys()


def test_link_and_hard_link_within_the_folder_are_imported(
    store: DatasetStore, folder: Path, draw: Draw
) -> None:
    other = folder / "test" / "good"
    other.mkdir(parents=True)
    (other / "link.png").symlink_to("../../train/good/0.png")
    (other / "hard.png").hardlink_to(folder / GOOD / "1.png")
    result = store.import_folder("tile", "", folder, [folder.parent])
    assert (result.stored, result.skipped) == (5, ())


@pytest.mark.parametrize("kind", ["link", "FIFO", "longer", "shorter", "gone", "folder link"])
def test_file_that_is_replaced_between_check_and_read_is_skipped(
    store: DatasetStore, folder: Path, draw: Draw, kind: str
) -> None:
    victim, secret = folder / GOOD / "3.png", folder.parents[1] / "secret" / "3.png"
    victim.write_bytes(draw(3))
    secret.parent.mkdir()
    secret.write_bytes(draw(4))

    def replace() -> None:
        match kind:
            case "link":
                victim.unlink()
                victim.symlink_to(secret)
            case "FIFO":
                victim.unlink()
                os.mkfifo(victim)
            case "longer":
                victim.write_bytes(draw(3) + bytes(1000))
            case "shorter":
                victim.write_bytes(draw(3)[:100])
            case "gone":
                victim.unlink()
            case _:
                (folder / GOOD).rename(folder / "moved")
                (folder / GOOD).symlink_to(secret.parent)

    read, opened, is_replaced = os.read, os.open, False

    def reading_hook(descriptor: int, size: int) -> bytes:
        nonlocal is_replaced
        data = read(descriptor, size)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if kind in ("longer", "shorter") and name == victim.name and not is_replaced:
            is_replaced = True
            replace()
        return data

    def opening_hook(path: str, *arguments: int, **options: Any) -> int:
        nonlocal is_replaced
        at = "good" if kind == "folder link" else victim.name
        if kind not in ("longer", "shorter") and path == at and not is_replaced:
            is_replaced = True
            replace()
        return opened(path, *arguments, **options)

    with patch.object(os, "read", reading_hook), patch.object(os, "open", opening_hook):
        try:
            skipped = store.import_folder("tile", "", folder, [folder.parent]).skipped_count
        except InvalidRequest:  # nothing can be read after the folder was replaced
            assert kind == "folder link"
            return
    assert is_replaced
    assert skipped == 1
    stored = {entry.path for entry in store.entries("tile")}
    assert stored == {f"{GOOD}/{number}.png" for number in range(3)}


def test_deep_folder_is_walked(store: DatasetStore, folder: Path) -> None:
    with deep_folder(folder):
        assert imported(store, folder) == {}


def fifo(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(1 << 40)  # sparse


@pytest.mark.parametrize("damage", [fifo, device, huge])
def test_replaced_image_in_the_store_is_reported(
    store: DatasetStore, root: Path, folder: Path, damage: Callable[[Path], None]
) -> None:
    imported(store, folder)
    damage(root / "tile" / GOOD / "0.png")
    with pytest.raises(Corrupt, match=r"0\.png"):
        store.read_path("tile", f"{GOOD}/0.png")
    assert len(store.images("tile")) == 3


@pytest.mark.parametrize("damage", [fifo, device, huge])
def test_replaced_record_of_a_dataset_is_reported(
    store: DatasetStore, root: Path, folder: Path, damage: Callable[[Path], None]
) -> None:
    imported(store, folder)
    damage(root / "tile" / "dataset.json")
    with pytest.raises(Corrupt, match=r"dataset\.json"):
        store.get("tile")


@pytest.mark.parametrize("damage", [fifo, device])
def test_index_is_rebuilt_without_files_that_lead_elsewhere(
    root: Path, store: DatasetStore, folder: Path, draw: Draw, damage: Callable[[Path], None]
) -> None:
    imported(store, folder)
    secret = folder.parents[1] / "secret.png"
    secret.write_bytes(draw(7))
    (root / "tile" / GOOD / "link.png").symlink_to(secret)
    os.mkfifo(root / "tile" / GOOD / "fifo.png")
    damage(root / "tile" / "index.jsonl")
    again = DatasetStore(root, ImageLimits())
    assert [image.path for image in again.images("tile")] == [f"{GOOD}/{number}.png" for number in range(3)]


def test_path_in_a_damaged_index_does_not_leave_the_dataset(
    root: Path, store: DatasetStore, folder: Path
) -> None:
    imported(store, folder)
    index = root / "tile" / "index.jsonl"
    for path in ("../../secret.png", "/etc/passwd", "train/good/../../../x.png", "train/good/a\\0.png"):
        index.write_bytes(index.read_bytes().replace(b"train/good/0.png", path.encode(), 1))
        with pytest.raises(InvalidRequest):
            DatasetStore(root, ImageLimits()).read_path("tile", path)
        assert len(DatasetStore(root, ImageLimits()).images("tile")) == 3
