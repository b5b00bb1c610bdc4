# SPDX-License-Identifier: Apache-2.0
import itertools
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image
from tests.support.fake_server import write_dataset_folder

from blemish_client.rendering import decode
from blemish_client.streaming.sources import limit_rate, open_source
from blemish_client.streaming.video import SourceError


def test_folder_yields_images_in_order_and_repeats(tmp_path: Path) -> None:
    contents = write_dataset_folder(tmp_path)
    source = open_source(str(tmp_path / "test"))
    assert list(source.images) == [contents["test/crack/000.png"], contents["test/good/000.png"]]
    assert not source.live
    again = open_source(str(tmp_path / "test"), repeat=True)
    assert len(list(itertools.islice(again.images, 7))) == 7


def video(file: Path, pictures: list["np.typing.NDArray[np.uint8]"]) -> None:
    import cv2

    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for picture in pictures:
        writer.write(picture)
    writer.release()


def test_video_frames_are_lossless(tmp_path: Path) -> None:
    import cv2

    file = tmp_path / "line.avi"
    video(file, [np.full((48, 64, 3), value, np.uint8) for value in (10, 120, 240)])
    frames = [np.asarray(decode(image)) for image in open_source(str(file)).images]
    capture = cv2.VideoCapture(str(file))
    for picture in frames:
        is_open, expected = capture.read()
        assert is_open
        assert np.array_equal(picture, expected[:, :, ::-1])  # OpenCV uses BGR
    assert len(frames) == 3
    assert len(list(itertools.islice(open_source(str(file), repeat=True).images, 8))) == 8


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing", None, "does not exist"),
        ("folder", "", "has no images"),
        ("notes.txt", "not a video", "check that it is a video"),
    ],
)
def test_invalid_source_is_reported(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    location = tmp_path / name
    if content == "":
        location.mkdir()
    elif content:
        location.write_text(content)
    with pytest.raises(SourceError, match=words):
        list(open_source(str(location)).images)


def test_missing_opencv_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "line.avi").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match="pip install opencv-python-headless"):
        list(open_source(str(tmp_path / "line.avi")).images)


def test_rate_is_limited() -> None:
    start = time.monotonic()
    assert list(limit_rate([b"x"] * 11, 100)) == [b"x"] * 11
    assert time.monotonic() - start >= 0.1


def test_synthetic_source_depends_only_on_the_seed() -> None:
    def first(location: str) -> list[bytes]:
        images = list(itertools.islice(open_source(location).images, 3))
        assert all(isinstance(image, bytes) for image in images)
        return cast(list[bytes], images)

    assert first("synthetic") == first("synthetic:0")
    assert first("synthetic:1") != first("synthetic:0")
    assert len(set(first("synthetic"))) == 3
    with Image.open(BytesIO(first("synthetic")[0])) as image:
        assert (image.format, image.size) == ("JPEG", (512, 512))
