# SPDX-License-Identifier: Apache-2.0
"""Sources of frames: folders, video files, network streams, devices and synthetic images."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from blemish.v1.image_pb2 import Image
from blemish_client.streaming.folders import IMAGE_SUFFIXES, has_suffix, image_files
from blemish_client.streaming.live_camera import live_frames
from blemish_client.streaming.video import SourceError, video_frames
from blemish_client.types.frame import Frame

_Frame = TypeVar("_Frame")


@dataclass(frozen=True)
class FrameSource:
    """A sequence of frames, with encoded or raw images."""

    name: str
    frames: Iterable[Frame]
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
    away: Callable[[bool], None] = lambda _: None,
    skip: Callable[[str, str], None] | None = None,
    exclude: Path | None = None,
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
        away: called with True when a live source fails, and with False when it is available again.
        skip: called with a file that cannot be read, and the reason. None raises the error of ``read``.
        exclude: folder to leave out.

    Raises:
        SourceError: if there is no such source.
    """
    path = Path(location)
    is_image = has_suffix(suffixes)

    if drawn := re.fullmatch(r"synthetic(?::(\d{1,9}))?", location):
        return FrameSource("synthetic", _synthetic(int(drawn[1] or 0)), live=False)
    if path.is_dir():
        files = list(image_files(path, is_image, exclude))
        if not files:
            raise SourceError(f"{location} has no images ({', '.join(sorted(suffixes or ()))})")
        return FrameSource(
            path.name or path.resolve().name, _files(files, read, skip, repeat=repeat), live=False
        )
    if path.is_file() and is_image(path.name):
        return FrameSource(path.stem, _files([path], read, skip, repeat=repeat), live=False)
    if path.is_file():
        return FrameSource(path.stem, _video(location, repeat=repeat), live=False)
    if "://" in location or location.isdecimal() or path.is_char_device():
        images = live_frames(location, give_up_after_s, report, away=away)
        return FrameSource(location, map(Frame, images), live=True)
    raise SourceError(
        f"{location} does not exist; give a folder or file of images, a video file, a URL such as "
        "rtsp://camera/1, a device such as /dev/video0, or synthetic"
    )


def limit_rate(frames: Iterable[_Frame], rate: float) -> Iterator[_Frame]:
    """Yield at most ``rate`` frames per second on average. 0 sets no limit."""
    start, count = time.monotonic(), 0
    for frame in frames:
        if rate:
            time.sleep(max(0.0, start + count / rate - time.monotonic()))
            count += 1
        yield frame


def _files(
    files: list[Path],
    read: Callable[[Path], bytes | Image],
    skip: Callable[[str, str], None] | None,
    *,
    repeat: bool,
) -> Iterator[Frame]:
    while True:
        count = 0
        for file in files:
            try:
                image = read(file)
            except (OSError, ValueError) as error:
                if skip is None:
                    raise
                skip(str(file), str(error))
                continue
            count += 1
            yield Frame(image, str(file))
        if not repeat or not count:
            return


def _synthetic(seed: int) -> Iterator[Frame]:
    try:
        from blemish_client.streaming import synthetic
    except ModuleNotFoundError as error:
        raise SourceError(
            "synthetic frames need numpy and Pillow; install them with: pip install 'blemish[cli]'"
        ) from error
    yield from map(Frame, synthetic.frames(seed))


def _video(location: str, *, repeat: bool) -> Iterator[Frame]:
    while True:
        count = 0
        for image in video_frames(location):
            yield Frame(image, location)
            count += 1
        if not count:
            raise SourceError(f"OpenCV reads no frames from {location}; check that it is a video")
        if not repeat:
            return
