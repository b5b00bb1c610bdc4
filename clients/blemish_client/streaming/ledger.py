# SPDX-License-Identifier: Apache-2.0
"""The state of a stream of frames across connections, shared by the blocking and the asyncio client."""

import time
from collections import deque
from dataclasses import dataclass

import grpc

from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import (
    STREAM_POLICY_BLOCK,
    Frame,
    ScoreStreamRequest,
    ScoreStreamResponse,
    StreamConfig,
)
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client.errors import BlemishError, Unavailable
from blemish_client.images import ImageLike, set_image
from blemish_client.transport.retry import RetryPolicy

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


@dataclass(frozen=True)
class SentFrame:
    """A frame and the time at which it was read from its source."""

    request: ScoreStreamRequest
    at_s: float

    @property
    def frame(self) -> Frame:
        return self.request.frame

    def fitting(self, limit: int) -> ScoreStreamRequest:
        """Return the message to send, without its image if that exceeds the server's limit in bytes.

        A message above the limit would end the stream. Without its image, the frame alone is refused.
        """
        if (size := self.request.ByteSize()) <= limit:
            return self.request
        frame = self.frame
        header = Frame(camera=frame.camera, sequence=frame.sequence, capture_time=frame.capture_time)
        header.omitted_bytes = size
        return ScoreStreamRequest(frame=header)


class Ledger:
    """The frames that were sent and not answered yet, and the time left for reconnecting.

    It outlives each connection. It is not thread-safe.
    """

    def __init__(self, config: StreamConfig, name: str, first: int, retry_policy: RetryPolicy) -> None:
        self.config = config
        self.exhausted = False
        """True once the source has ended."""
        self.resend: deque[SentFrame] = deque()
        """Frames that the next connection sends before it reads the source."""
        self._name = name
        self._next = first
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

    def number(self, image: ImageLike) -> SentFrame:
        """Return the frame of the next image of the source.

        Raises:
            ValueError: if the image is an array that is not an image.
        """
        request = ScoreStreamRequest()
        request.frame.camera, request.frame.sequence = self._name, self._next
        request.frame.capture_time.GetCurrentTime()
        set_image(request.frame.image, image)
        self._next += 1
        return SentFrame(request, time.monotonic())

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
        if first.frame.sequence != answer.sequence:
            raise BlemishError(
                f"frame {answer.sequence} was answered before frame {first.frame.sequence}; "
                "answers must come in the order of frames",
                code=grpc.StatusCode.INTERNAL,
            )
        for _ in range(last - answer.sequence):
            self._unanswered.popleft()
        return FrameResult(answer, first.frame.image, time.monotonic() - first.at_s)

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
        return LostFrames(sequences, cause.message) if sequences else None

    def pause_s(self, cause: Unavailable) -> float:
        """Return the pause before the next connection, in seconds.

        Raises:
            Unavailable: ``cause``, if the time for reconnecting is over.
        """
        # Count from the first failure. A quiet stream and a silent link may have had no answer for long.
        if self._retries_end is None:
            self._retries_end = time.monotonic() + self._time_for_retries_s
        if time.monotonic() > self._retries_end:
            raise cause
        return max(next(self._pauses_s), cause.retry_after_s or 0.0)


def largest_message(info: GetServerInfoResponse) -> int:
    """Return the largest message that a server receives, in bytes; a server without limits names none."""
    return info.limits.max_message_bytes or UNLIMITED_BYTES
