# SPDX-License-Identifier: Apache-2.0
"""The state of a stream of frames across connections, shared by the blocking and the asyncio client."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import (
    STREAM_POLICY_BLOCK,
    Inspection,
    ScoreStreamRequest,
    ScoreStreamResponse,
    StreamConfig,
)
from blemish.v1.inspection_pb2 import Frame as FrameMessage
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client.errors import BlemishError, Unavailable
from blemish_client.images import set_image
from blemish_client.transport.retry import RetryPolicy
from blemish_client.types.arrays import anomaly_map
from blemish_client.types.frame import FrameLike, as_frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Under BLOCK the server scores four frames of a stream and reads one more. Further frames would only get
# older in the connection.
_MAX_UNANSWERED = 8

ALWAYS_FITS_BYTES = 1 << 20
"""Size that the largest message of any server has at least, in bytes."""

UNLIMITED_BYTES = (1 << 31) - 1
"""Most bytes of a message of gRPC."""

STREAM_ENDED = "the server ended the stream"


@dataclass(frozen=True)
class FrameResult:
    """The server's answer to a frame, with the frame itself."""

    answer: ScoreStreamResponse
    sent: Image
    """The frame's image. For a range of dropped frames, the image of the first."""
    latency_s: float
    """Time from reading the frame from its source to its answer, in seconds."""
    names: tuple[str, ...] = ()
    """Names of the frame, or of each frame of a range, as the source gave them; empty without names."""

    @property
    def inspection(self) -> Inspection | None:
        """Inspection of the frame, or None if it was refused or dropped."""
        return self.answer.inspection if self.answer.HasField("inspection") else None

    @property
    def name(self) -> str:
        """Name of the frame as the source gave it, or an empty one."""
        return self.names[0] if self.names else ""

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.answer.camera

    @property
    def sequence(self) -> int:
        """Sequence number of the frame, or of the first of a range."""
        return self.answer.sequence

    @property
    def capture_time(self) -> datetime:
        """Time at which the frame was taken, in UTC."""
        return self.answer.capture_time.ToDatetime(UTC)

    @property
    def anomaly_map(self) -> "NDArray[np.float32] | None":
        """Anomaly score of every pixel (height, width), or None if the answer has no map."""
        return None if self.inspection is None else anomaly_map(self.inspection)

    @property
    def image(self) -> bytes:
        """Encoded image as sent; empty if it was sent as raw samples."""
        return self.sent.encoded


@dataclass(frozen=True)
class LostFrames:
    """Frames without an answer because their connection was lost.

    Under BLOCK no frame is lost: the next connection sends it again.
    """

    sequences: tuple[int, ...]
    cause: str
    names: tuple[str, ...] = ()
    """Names of the frames as the source gave them; empty without names."""

    @property
    def name(self) -> str:
        """Name of the first frame, or an empty one."""
        return self.names[0] if self.names else ""


@dataclass(frozen=True)
class SentFrame:
    """A frame and the time at which it was read from its source."""

    request: ScoreStreamRequest
    at_s: float
    name: str = ""

    @property
    def frame(self) -> FrameMessage:
        return self.request.frame

    def fitting(self, limit: int) -> ScoreStreamRequest:
        """Return the message to send, without its image if that exceeds the server's limit in bytes.

        A message above the limit would end the stream. Without its image, the frame alone is refused.
        """
        if (size := self.request.ByteSize()) <= limit:
            return self.request
        frame = self.frame
        header = FrameMessage(camera=frame.camera, sequence=frame.sequence, capture_time=frame.capture_time)
        header.omitted_bytes = size
        return ScoreStreamRequest(frame=header)


class Ledger:
    """The frames that were sent and not answered yet, and the time left for reconnecting.

    It outlives each connection. It is not thread-safe.
    """

    def __init__(
        self,
        config: StreamConfig,
        name: str,
        first: int,
        retry_policy: RetryPolicy,
        on_unreachable: Callable[[Unavailable], None] | None = None,
    ) -> None:
        self.config = config
        self.exhausted = False
        """True once the source has ended."""
        self.resend: deque[SentFrame] = deque()
        """Frames that the next connection sends before it reads the source."""
        self._name = name
        self._first = first
        # By camera.
        self._next: dict[str, int] = {}
        self._on_unreachable = on_unreachable
        # Oldest first. Answers arrive in the same order.
        self._unanswered: deque[SentFrame] = deque()
        self._retry_policy = retry_policy
        # A server that has never answered gets the time of a call.
        self._time_for_retries_s = retry_policy.call_s
        self._retries_end: float | None = None
        self._pauses_s = retry_policy.pauses_s()

    @property
    def is_full(self) -> bool:
        """True if another frame would only wait in the connection."""
        return self.config.policy == STREAM_POLICY_BLOCK and len(self._unanswered) >= _MAX_UNANSWERED

    @property
    def is_complete(self) -> bool:
        """True if no frame is left to send."""
        return self.exhausted and not self.resend

    def number(self, image: FrameLike) -> SentFrame:
        """Return the frame of the next image of the source.

        Raises:
            OSError: if the image is a path, and the file cannot be read.
            ValueError: if the image is an array that is not an image.
        """
        frame = as_frame(image)
        camera = frame.camera or self._name
        sequence = self._next.get(camera, self._first) if frame.sequence is None else frame.sequence
        request = ScoreStreamRequest()
        request.frame.camera, request.frame.sequence = camera, sequence
        request.frame.capture_time.CopyFrom(frame.timestamp)
        request.frame.name = frame.sent_name
        set_image(request.frame.image, frame.image)
        self._next[camera] = sequence + 1
        return SentFrame(request, time.monotonic(), frame.name)

    def send(self, sent: SentFrame) -> SentFrame:
        """Record that a frame awaits its answer."""
        self._unanswered.append(sent)
        return sent

    def match(self, answer: ScoreStreamResponse) -> FrameResult:
        """Return the result for an answer and remove its frames from those that await one.

        Raises:
            BlemishError: if the answer is out of order.
        """
        last = answer.dropped.last_sequence if answer.HasField("dropped") else answer.sequence
        first = self._unanswered.popleft()
        if (first.frame.camera, first.frame.sequence) != (answer.camera, answer.sequence):
            raise BlemishError(
                f"frame {answer.sequence} was answered before frame {first.frame.sequence}; "
                "answers must come in the order of frames",
                code=grpc.StatusCode.INTERNAL,
            )
        others = [self._unanswered.popleft() for _ in range(last - answer.sequence)]
        latency_s = time.monotonic() - first.at_s
        return FrameResult(answer, first.frame.image, latency_s, _names([first, *others]))

    def restart_clock(self) -> None:
        """Allow the full time for reconnecting after the next lost connection: the server answered."""
        self._time_for_retries_s = self._retry_policy.watch_s
        self._retries_end = None
        self._pauses_s = self._retry_policy.pauses_s()

    def disconnect(self, cause: Unavailable) -> LostFrames | None:
        """Return the frames lost with a connection. Under BLOCK schedule them for the next one instead."""
        unanswered, self._unanswered = self._unanswered, deque()
        if self.config.policy == STREAM_POLICY_BLOCK:
            self.resend.extendleft(reversed(unanswered))
            return None
        sequences = tuple(sent.frame.sequence for sent in unanswered)
        return LostFrames(sequences, cause.message, _names(unanswered)) if sequences else None

    def pause_s(self, cause: Unavailable) -> float:
        """Return the pause before the next connection, in seconds.

        Raises:
            Unavailable: ``cause``, if the time for reconnecting is over.
        """
        if self._on_unreachable is not None:
            self._on_unreachable(cause)
        # Count from the first failure. A quiet stream and a silent link may have had no answer for long.
        if self._retries_end is None:
            self._retries_end = time.monotonic() + self._time_for_retries_s
        if time.monotonic() > self._retries_end:
            raise cause
        return max(next(self._pauses_s), cause.retry_after_s or 0.0)


def _names(frames: Iterable[SentFrame]) -> tuple[str, ...]:
    names = tuple(sent.name for sent in frames)
    return names if any(names) else ()


def largest_message(info: GetServerInfoResponse) -> int:
    """Return the largest message that a server receives, in bytes; a server without limits names none."""
    return info.limits.max_message_bytes or UNLIMITED_BYTES
