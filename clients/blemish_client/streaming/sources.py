# SPDX-License-Identifier: Apache-2.0
"""Where a camera's frames come from: a folder, a video file, a network stream, a device, nowhere."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_OPEN_AGAIN_AFTER_S = (0.5, 1.0, 2.0, 4.0)


class SourceError(Exception):
    """The source cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Encoded images, in the order in which they come."""

    name: str
    images: Iterable[bytes]
    live: bool
    """Whether they come at a pace of their own, so that what is not taken is gone."""


def opened(place: str, *, repeat: bool = False) -> Source:
    """Open what ``place`` names: a folder or file of images, a video file, a URL, a device or its number.

    ``synthetic`` draws frames, for who has no camera at hand; ``synthetic:7`` those of another seed.

    Args:
        place: a path, a URL such as rtsp://camera/1, /dev/video0 or 0.
        repeat: begin anew at the end, for files.

    Raises:
        SourceError: if there is nothing of that name, or OpenCV is needed and missing.
    """
    path = Path(place)
    if drawn := re.fullmatch(r"synthetic(?::(\d{1,9}))?", place):
        return Source("synthetic", _synthetic(int(drawn[1] or 0)), live=False)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise SourceError(f"{place} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return Source(path.name, _files(files, repeat=repeat), live=False)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return Source(path.stem, _files([path], repeat=repeat), live=False)
    if path.is_file():
        return Source(path.stem, _video(place, repeat=repeat), live=False)
    if "://" in place or place.isdecimal() or path.is_char_device():
        return Source(place, _live(place), live=True)
    raise SourceError(
        f"there is no {place}; name a folder or file of images, a video file, a URL such as "
        "rtsp://camera/1, a device such as /dev/video0, or synthetic"
    )


def paced(images: Iterable[bytes], rate: float) -> Iterator[bytes]:
    """Yield ``rate`` images a second, late ones at once; as they come if it is 0."""
    began, count = time.monotonic(), 0
    for image in images:
        if rate:
            time.sleep(max(0.0, began + count / rate - time.monotonic()))
            count += 1
        yield image


def _files(files: list[Path], *, repeat: bool) -> Iterator[bytes]:
    while True:
        for file in files:
            yield file.read_bytes()
        if not repeat:
            return


def _synthetic(seed: int) -> Iterator[bytes]:
    try:
        from blemish_client.streaming import synthetic
    except ModuleNotFoundError as error:
        raise SourceError("drawing frames needs numpy and Pillow: pip install 'blemish[cli]'") from error
    yield from synthetic.frames(seed)


def _video(place: str, *, repeat: bool) -> Iterator[bytes]:
    while True:
        count = 0
        for image in _pictures(place):
            yield image
            count += 1
        if not count:
            raise SourceError(f"OpenCV reads no pictures from {place}; is it a video?")
        if not repeat:
            return


def _live(place: str) -> Iterator[bytes]:
    """Yield pictures for as long as the camera is there, or comes back within a few seconds."""
    while True:
        for pause_s in (0.0, *_OPEN_AGAIN_AFTER_S):
            time.sleep(pause_s)
            count = 0
            for image in _pictures(place):
                yield image
                count += 1
            if count:
                break
        else:
            raise SourceError(f"no pictures come from {place}; is the camera on, and the address right?")


def _pictures(place: str) -> Iterator[bytes]:
    """Yield the pictures of one opening, as PNG: no pixel is changed on the way to the model."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise SourceError(
            f"reading {place} needs OpenCV: pip install opencv-python-headless; folders of images need none"
        ) from error
    capture = cv2.VideoCapture(int(place) if place.isdecimal() else place)
    try:
        while True:
            there, picture = capture.read()
            if not there:
                return
            _, encoded = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            yield encoded.tobytes()
    finally:
        capture.release()
