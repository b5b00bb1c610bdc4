# SPDX-License-Identifier: Apache-2.0
"""Downloads, from local files in place of the internet."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from blemish_core.detectors.efficientad import teacher
from blemish_core.detectors.efficientad.settings import SIZES
from blemish_core.detectors.efficientad.teacher import network
from blemish_core.detectors.efficientad.training import photographs
from blemish_core.models.downloads import RemoteFile, fetch_photographs, fetch_teachers
from blemish_core.platform.errors import Corrupt, FailedPrecondition


def quiet(done: int, total: int) -> None:
    """Ignore progress."""


def remote_file(file: Path) -> RemoteFile:
    return RemoteFile(file.as_uri(), hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zip file like the official one, with both teachers in a folder."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(folder / "teachers.zip", "w") as target:
        for size in SIZES:
            buffer = io.BytesIO()
            torch.save(network(size).state_dict(), buffer)
            target.writestr(f"pretrained/pretrained_teacher_{size}.pth", buffer.getvalue())
    return folder / "teachers.zip"


def test_teachers_are_fetched_and_used(archive: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    fetch_teachers(tmp_path, lambda done, total: reported.append((done, total)), remote_file(archive))
    size = archive.stat().st_size
    assert reported[-1] == (size, size)
    for name in SIZES:
        assert teacher.find(name, tmp_path).origin == "imported"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "efficientad-medium.safetensors",
        "efficientad-small.safetensors",
    ]


def test_file_with_another_hash_is_not_opened(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="SHA-256"):
        fetch_teachers(tmp_path, quiet, RemoteFile(archive.as_uri(), "0" * 64))
    assert not list(tmp_path.iterdir())


def test_missing_network_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be downloaded"):
        fetch_teachers(tmp_path, quiet, RemoteFile((tmp_path / "nowhere.zip").as_uri(), "0" * 64))


def _tar(file: Path, name: str) -> RemoteFile:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "green").save(buffer, "JPEG")
    with tarfile.open(file, "w:gz") as target:
        member = tarfile.TarInfo(name)
        member.size = buffer.tell()
        buffer.seek(0)
        target.addfile(member, buffer)
    return remote_file(file)


def test_photographs_are_fetched_and_found(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    folder = fetch_photographs(
        weights, quiet, _tar(tmp_path / "photographs.tgz", "imagenette2/train/a.jpg")
    )
    found, words = photographs.photographs(None, folder)
    assert len(found) == 1
    assert words == "1 photographs, imagenette/"
    again = fetch_photographs(weights, quiet, _tar(tmp_path / "photographs.tgz", "imagenette2/train/b.jpg"))
    assert [file.name for file in photographs.below(again)] == ["b.jpg"]


def test_archive_with_paths_outside_its_folder_is_rejected(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with pytest.raises(Corrupt, match="outside"):
        fetch_photographs(weights, quiet, _tar(tmp_path / "evil.tgz", "../../evil.jpg"))
    assert not (tmp_path / "evil.jpg").exists()
    assert not list(weights.iterdir())
