# SPDX-License-Identifier: Apache-2.0
"""Frames that OpenCV reads from files, devices and network streams."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from blemish.v1.image_pb2 import Image
from blemish_client.images import raw_image

if TYPE_CHECKING:
    import cv2


class SourceError(Exception):
    """A source that cannot be read."""


def open_capture(location: str, timeout_s: float = 0.0) -> "cv2.VideoCapture":
    """Open a file, a URL or the number of a device; the capture may have failed to open.

    Args:
        location: file, URL or number.
        timeout_s: time for opening a network stream and for reading a frame of it; 0 sets no limit.

    Raises:
        SourceError: if OpenCV is not installed.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise SourceError(
            f"reading {location} needs OpenCV; install it with: pip install opencv-python-headless"
        ) from error
    if location.isdecimal():
        return cv2.VideoCapture(int(location))
    if not timeout_s:
        return cv2.VideoCapture(location)
    limit_ms = round(1000 * timeout_s)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
    if "://" in location:  # only FFmpeg has these limits
        return cv2.VideoCapture(location, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(location)


def read_frame(capture: "cv2.VideoCapture") -> Image | None:
    """Return the next frame, or None if there is none."""
    has_frame, pixels = capture.read()
    if not has_frame:
        return None
    return raw_image(pixels, "BGR8" if pixels.ndim == 3 else "")


def video_frames(location: str) -> Iterator[Image]:
    """Yield the frames of a file as raw images.

    Raises:
        SourceError: if OpenCV is not installed.
    """
    capture = open_capture(location)
    try:
        while (image := read_frame(capture)) is not None:
            yield image
    finally:
        capture.release()
