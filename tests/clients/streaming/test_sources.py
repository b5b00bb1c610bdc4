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
    assert [(frame.image, frame.name) for frame in source.frames] == [
        (contents[name], str(tmp_path / name)) for name in ("test/crack/000.png", "test/good/000.png")
    ]
    assert not source.live
    again = open_source(str(tmp_path / "test"), repeat=True)
    assert len(list(itertools.islice(again.frames, 7))) == 7


def test_masks_hidden_files_and_the_excluded_folder_are_left_out(tmp_path: Path) -> None:
    write_dataset_folder(tmp_path)
    for name in ("a.png", "a_mask.png", "b_mask.png", "c.jpg", "c_GT.png", ".hidden.png", "out/a.png"):
        (tmp_path / "line" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "line" / name).write_bytes(b"x")
    names = [frame.name for frame in open_source(str(tmp_path), exclude=tmp_path / "line/out").frames]
    assert not [name for name in names if "ground_truth" in name]
    own = [Path(name).name for name in names if Path(name).parent.name == "line"]
    assert own == ["a.png", "b_mask.png", "c.jpg"]
    masks = open_source(str(tmp_path / "ground_truth"))
    assert len(list(masks.frames)) == 1


def test_file_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    skipped: list[tuple[str, str]] = []

    def read(file: Path) -> bytes:
        if file.name == "a.png":
            raise OSError("no access")
        return file.read_bytes()

    frames = open_source(str(tmp_path), read=read, skip=lambda *each: skipped.append(each)).frames
    assert [frame.image for frame in frames] == [b"b.png"]
    assert skipped == [(str(tmp_path / "a.png"), "no access")]


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
    frames = [np.asarray(decode(cast(bytes, frame.image))) for frame in open_source(str(file)).frames]
    capture = cv2.VideoCapture(str(file))
    for picture in frames:
        is_open, expected = capture.read()
        assert is_open
        assert np.array_equal(picture, expected[:, :, ::-1])  # OpenCV uses BGR
    assert len(frames) == 3
    assert len(list(itertools.islice(open_source(str(file), repeat=True).frames, 8))) == 8


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
        list(open_source(str(location)).frames)


def test_missing_opencv_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "line.avi").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match="pip install opencv-python-headless"):
        list(open_source(str(tmp_path / "line.avi")).frames)


def test_rate_is_limited() -> None:
    start = time.monotonic()
    assert list(limit_rate([b"x"] * 11, 100)) == [b"x"] * 11
    assert time.monotonic() - start >= 0.1


def test_synthetic_source_depends_only_on_the_seed() -> None:
    def first(location: str) -> list[bytes]:
        images = [frame.image for frame in itertools.islice(open_source(location).frames, 3)]
        assert all(isinstance(image, bytes) for image in images)
        return cast(list[bytes], images)

    assert first("synthetic") == first("synthetic:0")
    assert first("synthetic:1") != first("synthetic:0")
    assert len(set(first("synthetic"))) == 3
    with Image.open(BytesIO(first("synthetic")[0])) as image:
        assert (image.format, image.size) == ("JPEG", (512, 512))
