# SPDX-License-Identifier: Apache-2.0
"""Metrics of streams and their frames."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from blemish_server.scoring.frame_queue import FrameQueue, StreamPolicy

_FRAMES = {
    "streamed": "Frames received in streams.",
    "dropped": "Frames superseded by newer ones and reported as dropped.",
    "rejected": "Frames rejected at once, because their stream had its maximum in flight.",
}


class StreamMetrics:
    """The open streams, and the frames of all streams since the start."""

    def __init__(self) -> None:
        self._open: set[FrameQueue[Any, Any]] = set()
        self._closed: Counter[tuple[str, str]] = Counter()
        """Frames of closed streams, by policy and kind."""

    @contextmanager
    def track(self, queue: FrameQueue[Any, Any]) -> Iterator[None]:
        """Count a stream while it is open, and its frames from then on."""
        self._open.add(queue)
        try:
            yield
        finally:
            self._open.remove(queue)
            self._closed.update(_frames(queue))

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Call this in the event loop, where no counter changes meanwhile."""
        frames = self._closed.copy()
        for queue in self._open:
            frames.update(_frames(queue))
        now = Counter(queue.policy for queue in self._open)
        streams = GaugeMetricFamily("blemish_streams", "Open streams.", labels=["policy"])
        for policy in StreamPolicy:
            streams.add_metric([policy], now[policy])
        yield streams
        for kind, text in _FRAMES.items():
            family = CounterMetricFamily(f"blemish_{kind}_frames", text, labels=["policy"])
            for policy in StreamPolicy:
                family.add_metric([policy], frames[policy, kind])
            yield family


def _frames(queue: FrameQueue[Any, Any]) -> dict[tuple[str, str], int]:
    counts = {"streamed": queue.frames, "dropped": queue.dropped, "rejected": queue.rejected}
    return {(queue.policy, kind): count for kind, count in counts.items()}
