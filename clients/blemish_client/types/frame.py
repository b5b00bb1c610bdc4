# SPDX-License-Identifier: Apache-2.0
"""A frame of a stream with its origin."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from blemish_client.images import ImageLike, is_path

_MAX_NAME = 255


@dataclass(frozen=True)
class Frame:
    """An image of a stream with its origin. A stream also takes plain images."""

    image: ImageLike
    name: str = ""
    """Name for people, such as that of a file, which results of the frame carry. The server receives the
    last part of a path, and nothing of a URL; it keeps at most 255 characters with a kept frame."""
    camera: str = ""
    """Name of the camera, at most 128 characters. Empty for that of the stream."""
    capture_time: datetime | None = None
    """Time at which the image was taken; without a time zone it is local. None for the current time."""
    sequence: int | None = None
    """Sequence number. None for the one after the previous frame of the camera."""

    @property
    def sent_name(self) -> str:
        """Name as the server receives it."""
        return sent_name(self.name, self.image)

    @property
    def timestamp(self) -> Timestamp:
        """Capture time as a message."""
        moment = Timestamp()
        moment.FromDatetime((self.capture_time or datetime.now(UTC)).astimezone(UTC))
        return moment


def sent_name(name: str, image: ImageLike) -> str:
    """Return the name of an image without its folders, or that of its file; empty for a URL."""
    if not name and is_path(image):
        name = os.fspath(image)
    if "://" in name:  # it may have a password
        return ""
    last = re.split(r"[/\\]", name)[-1]
    return last.encode(errors="backslashreplace").decode()[-_MAX_NAME:]


FrameLike: TypeAlias = "ImageLike | Frame"
"""An image of a stream, with or without its origin."""


def as_frame(image: FrameLike) -> Frame:
    """Return a frame for an image of a stream."""
    return image if isinstance(image, Frame) else Frame(image)
