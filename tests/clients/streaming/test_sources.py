# SPDX-License-Identifier: Apache-2.0

import itertools
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from blemish_client.streaming.sources import SourceError, opened, paced

if TYPE_CHECKING:
    from tests.clients.conftest import Make


def test_a_folder_gives_its_images_in_order_and_again(tmp_path: Path, make: "Make") -> None:
    contents = make.folder(tmp_path)
    source = opened(str(tmp_path / "test"))
    assert list(source.images) == [contents["test/crack/000.png"], contents["test/good/000.png"]]
    assert not source.live
    again = opened(str(tmp_path / "test"), repeat=True)
    assert len(list(itertools.islice(again.images, 7))) == 7


def video(file: Path, pictures: list["np.typing.NDArray[np.uint8]"]) -> None:
    import cv2

    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for picture in pictures:
        writer.write(picture)
    writer.release()


def test_a_video_gives_its_pictures_unchanged(tmp_path: Path) -> None:
    import io

    import cv2

    file = tmp_path / "line.avi"
    video(file, [np.full((48, 64, 3), value, np.uint8) for value in (10, 120, 240)])
    told = [np.asarray(Image.open(io.BytesIO(image))) for image in opened(str(file)).images]
    capture = cv2.VideoCapture(str(file))
    for picture in told:
        there, theirs = capture.read()
        assert there
        assert np.array_equal(picture, theirs[:, :, ::-1])  # OpenCV has blue first
    assert len(told) == 3
    assert len(list(itertools.islice(opened(str(file), repeat=True).images, 8))) == 8


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing", None, "there is no"),
        ("folder", "", "has no images"),
        ("notes.txt", "not a video", "is it a video"),
    ],
)
def test_what_is_no_source_is_named(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    place = tmp_path / name
    if content == "":
        place.mkdir()
    elif content:
        place.write_text(content)
    with pytest.raises(SourceError, match=words):
        list(opened(str(place)).images)


def test_without_opencv_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "line.avi").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match="pip install opencv-python-headless"):
        list(opened(str(tmp_path / "line.avi")).images)


def test_the_pace_is_kept_on_average() -> None:
    began = time.monotonic()
    assert list(paced([b"x"] * 11, 100)) == [b"x"] * 11
    assert time.monotonic() - began >= 0.1


def test_a_synthetic_source_is_the_same_for_the_same_seed() -> None:
    def first(place: str) -> list[bytes]:
        return list(itertools.islice(opened(place).images, 3))

    assert first("synthetic") == first("synthetic:0")
    assert first("synthetic:1") != first("synthetic:0")
    assert len(set(first("synthetic"))) == 3
    with Image.open(BytesIO(first("synthetic")[0])) as image:
        assert (image.format, image.size) == ("JPEG", (512, 512))
