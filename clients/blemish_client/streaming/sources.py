# SPDX-License-Identifier: Apache-2.0
"""Sources of frames: folders, video files, network streams, devices and synthetic images."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_REOPEN_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class SourceError(Exception):
    """A source that cannot be read."""


@dataclass(frozen=True)
class FrameSource:
    """A sequence of encoded images."""

    name: str
    images: Iterable[bytes]
    live: bool
    """True if frames arrive at their own rate and are lost if not read."""


def open_source(location: str, *, repeat: bool = False) -> FrameSource:
    """Open a source of frames.

    Args:
        location: folder or file of images, video file, URL such as rtsp://camera/1, device such as
            /dev/video0 or its number. ``synthetic`` draws images; ``synthetic:7`` uses the seed 7.
        repeat: repeat files in an endless loop.

    Raises:
        SourceError: if there is no such source.
    """
    path = Path(location)
    if drawn := re.fullmatch(r"synthetic(?::(\d{1,9}))?", location):
        return FrameSource("synthetic", _synthetic(int(drawn[1] or 0)), live=False)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise SourceError(f"{location} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return FrameSource(path.name, _files(files, repeat=repeat), live=False)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return FrameSource(path.stem, _files([path], repeat=repeat), live=False)
    if path.is_file():
        return FrameSource(path.stem, _video(location, repeat=repeat), live=False)
    if "://" in location or location.isdecimal() or path.is_char_device():
        return FrameSource(location, _live(location), live=True)
    raise SourceError(
        f"{location} does not exist; give a folder or file of images, a video file, a URL such as "
        "rtsp://camera/1, a device such as /dev/video0, or synthetic"
    )


def limit_rate(images: Iterable[bytes], rate: float) -> Iterator[bytes]:
    """Yield at most ``rate`` images per second on average. 0 sets no limit."""
    start, count = time.monotonic(), 0
    for image in images:
        if rate:
            time.sleep(max(0.0, start + count / rate - time.monotonic()))
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
        raise SourceError(
            "synthetic frames need numpy and Pillow; install them with: pip install 'blemish[cli]'"
        ) from error
    yield from synthetic.frames(seed)


def _video(location: str, *, repeat: bool) -> Iterator[bytes]:
    while True:
        count = 0
        for image in _frames(location):
            yield image
            count += 1
        if not count:
            raise SourceError(f"OpenCV reads no frames from {location}; check that it is a video")
        if not repeat:
            return


def _live(location: str) -> Iterator[bytes]:
    """Yield frames as long as the camera is available, or becomes available again within seconds."""
    while True:
        for pause_s in (0.0, *_REOPEN_PAUSES_S):
            time.sleep(pause_s)
            count = 0
            for image in _frames(location):
                yield image
                count += 1
            if count:
                break
        else:
            raise SourceError(f"no frames arrive from {location}; check the camera and its address")


def _frames(location: str) -> Iterator[bytes]:
    """Yield the frames of one connection as PNG, which is lossless."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise SourceError(
            f"reading {location} needs OpenCV; install it with: pip install opencv-python-headless"
        ) from error
    capture = cv2.VideoCapture(int(location) if location.isdecimal() else location)
    try:
        while True:
            is_open, pixels = capture.read()
            if not is_open:
                return
            _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            yield encoded.tobytes()
    finally:
        capture.release()
