# SPDX-License-Identifier: Apache-2.0
"""Sources of frames: folders, video files, network streams, devices and synthetic images."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blemish.v1.image_pb2 import Image
from blemish_client.streaming.live_camera import live_frames
from blemish_client.streaming.video import SourceError, video_frames

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".j2k", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class FrameSource:
    """A sequence of images, encoded or raw."""

    name: str
    images: Iterable[bytes | Image]
    live: bool
    """True if frames arrive at their own rate and are lost if not read."""


def open_source(
    location: str,
    *,
    repeat: bool = False,
    read: Callable[[Path], bytes | Image] = Path.read_bytes,
    suffixes: frozenset[str] | None = IMAGE_SUFFIXES,
    give_up_after_s: float | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> FrameSource:
    """Open a source of frames.

    Args:
        location: folder or file of images, video file, URL such as rtsp://camera/1, device such as
            /dev/video0 or its number. ``synthetic`` draws images; ``synthetic:7`` uses the seed 7.
        repeat: repeat files in an endless loop.
        read: reads an image file.
        suffixes: endings of the names of image files, in lower case; None takes all files.
        give_up_after_s: time for which a live source may deliver no frame, in seconds; None waits for ever.
        report: called with a line each time that a live source fails or is available again.

    Raises:
        SourceError: if there is no such source.
    """
    path = Path(location)

    def is_image(file: Path) -> bool:
        return suffixes is None or file.suffix.lower() in suffixes

    if drawn := re.fullmatch(r"synthetic(?::(\d{1,9}))?", location):
        return FrameSource("synthetic", _synthetic(int(drawn[1] or 0)), live=False)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if is_image(file) and file.is_file() and not file.name.startswith(".")
        )
        if not files:
            raise SourceError(f"{location} has no images ({', '.join(sorted(suffixes or ()))})")
        return FrameSource(path.name, _files(files, read, repeat=repeat), live=False)
    if path.is_file() and is_image(path):
        return FrameSource(path.stem, _files([path], read, repeat=repeat), live=False)
    if path.is_file():
        return FrameSource(path.stem, _video(location, repeat=repeat), live=False)
    if "://" in location or location.isdecimal() or path.is_char_device():
        return FrameSource(location, live_frames(location, give_up_after_s, report), live=True)
    raise SourceError(
        f"{location} does not exist; give a folder or file of images, a video file, a URL such as "
        "rtsp://camera/1, a device such as /dev/video0, or synthetic"
    )


def limit_rate(images: Iterable[bytes | Image], rate: float) -> Iterator[bytes | Image]:
    """Yield at most ``rate`` images per second on average. 0 sets no limit."""
    start, count = time.monotonic(), 0
    for image in images:
        if rate:
            time.sleep(max(0.0, start + count / rate - time.monotonic()))
            count += 1
        yield image


def _files(
    files: list[Path], read: Callable[[Path], bytes | Image], *, repeat: bool
) -> Iterator[bytes | Image]:
    while True:
        for file in files:
            yield read(file)
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


def _video(location: str, *, repeat: bool) -> Iterator[Image]:
    while True:
        count = 0
        for image in video_frames(location):
            yield image
            count += 1
        if not count:
            raise SourceError(f"OpenCV reads no frames from {location}; check that it is a video")
        if not repeat:
            return
