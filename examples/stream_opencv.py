# SPDX-License-Identifier: Apache-2.0
"""Score a camera or a video that OpenCV reads: ``python stream_opencv.py MODEL SOURCE``."""

import os
import sys
from collections.abc import Iterator

import cv2

from blemish_client import Client, Frame, FrameResult, StreamPolicy, raw_image

model, source = sys.argv[1:]


def frames() -> Iterator[Frame]:
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    while True:
        has_frame, pixels = capture.read()
        if not has_frame:
            return
        yield Frame(raw_image(pixels, "BGR8"), camera="left")  # OpenCV's order is blue, green, red


# A file can wait. For a camera, LATEST scores the newest frame and drops those that are too old.
policy = StreamPolicy.LATEST if source.isdecimal() or "://" in source else StreamPolicy.BLOCK
with Client(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
    for result in client.stream(frames(), model, policy=policy):
        if isinstance(result, FrameResult) and result.inspection is not None:
            print(f"{result.camera} {result.sequence}: score {result.inspection.score:.3f}")
