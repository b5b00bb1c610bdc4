# SPDX-License-Identifier: Apache-2.0
"""Live cameras over the network: MJPEG over HTTP, read by OpenCV."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from tests.support.ports import free_port

from blemish_client.streaming.live_camera import live_frames


class Camera(ThreadingHTTPServer):
    """A camera that sends the same picture ten times a second."""

    daemon_threads = True

    def __init__(self, port: int, *, frames_until_silent: int | None = None) -> None:
        """Serve on ``port``; send only so many frames on a connection and then nothing."""
        super().__init__(("127.0.0.1", port), _Stream)
        _, picture = cv2.imencode(".jpg", np.full((48, 64, 3), 100, np.uint8))
        self.picture = picture.tobytes()
        self.frames_until_silent = frames_until_silent
        self.off = threading.Event()
        self.connections: list[socket.socket] = []


class _Stream(BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self) -> None:
        self.server.connections.append(self.connection)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
        message = part % (len(self.server.picture), self.server.picture)
        for sent in itertools.count():
            if sent == self.server.frames_until_silent:
                self.server.off.wait()
            if self.server.off.wait(0.1):
                return
            self.wfile.write(message)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def camera(port: int, frames_until_silent: int | None = None) -> Iterator[Camera]:
    server = Camera(port, frames_until_silent=frames_until_silent)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.off.set()
        server.shutdown()
        thread.join()
        for connection in server.connections:
            connection.close()
        server.server_close()


def test_camera_that_is_switched_off_and_on_again_goes_on() -> None:
    port = free_port()
    reports: list[str] = []
    images = live_frames(f"http://127.0.0.1:{port}/", None, reports.append, longest_read_s=5)
    with camera(port):
        assert next(images).raw.width == 64
    received: list[int] = []

    def receive() -> None:
        received.extend(image.raw.height for image in itertools.islice(images, 10))

    reading = threading.Thread(target=receive)
    reading.start()
    give_up = time.monotonic() + 20
    while not reports and time.monotonic() < give_up:
        time.sleep(0.05)
    assert reports[0].startswith("camera unreachable, retrying")
    with camera(port):
        reading.join(30)
    assert received == [48] * 10
    assert "is available again" in reports[-1]


def test_camera_that_falls_silent_is_connected_again() -> None:
    port = free_port()
    with camera(port, frames_until_silent=12) as silent:
        images = live_frames(f"http://127.0.0.1:{port}/", None, lambda _: None, longest_read_s=2)
        assert len(list(itertools.islice(images, 20))) == 20
        assert len(silent.connections) > 1
