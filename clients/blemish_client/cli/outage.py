# SPDX-License-Identifier: Apache-2.0
"""Times in which a stream inspects nothing, and the reason."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

from blemish_client.cli.failures import describe
from blemish_client.errors import Unavailable

_GRACE_S = 2.0
"""Time after which an outage is shown. A restart of the server may take less."""
_SILENT_AFTER_S = 5.0
"""Time without an answer, or with refusals only, after which it counts as an outage."""
_ATTEMPTS_END_S = 15.0
"""Time without a failed attempt after which the server counts as reachable. An attempt takes less."""
_FIRST_REPEAT_S = 15.0
_LONGEST_REPEAT_S = 600.0


@dataclass(frozen=True)
class Outage:
    """A time in which nothing is inspected."""

    reason: str
    """Such as: server unreachable."""
    duration_s: float
    detail: str = ""
    """Cause and remedy."""

    @property
    def headline(self) -> str:
        return f"NOT INSPECTING, {self.reason} for {self.duration_s:.0f} s"


class OutageMonitor:
    """Follows the frames of a stream, and finds the times in which none is inspected. It is thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._outstanding = 0
        self._waiting_since_s = 0.0
        self._failing_since_s: float | None = None
        self._latest_failure_s = 0.0
        self._cause = ""
        self._source_away_since_s: float | None = None
        self._refused_since_s: float | None = None
        self._refusal = ""
        self.has_answered = False
        """True once the server has answered a frame."""

    def sent(self) -> None:
        """Record that a frame was read for sending."""
        with self._lock:
            if not self._outstanding:
                self._waiting_since_s = self._clock()
            self._outstanding += 1

    def answered(self, frames: int = 1) -> None:
        """Record an answer for a frame or a range of frames."""
        with self._lock:
            self._outstanding = max(0, self._outstanding - frames)
            self._waiting_since_s = self._clock()
            self._failing_since_s = None
            self.has_answered = True

    def inspected(self) -> None:
        """Record that a frame was inspected."""
        with self._lock:
            self._refused_since_s = None

    def refused(self, reason: str) -> None:
        """Record that a frame was refused."""
        with self._lock:
            self._refusal = reason
            if self._refused_since_s is None:
                self._refused_since_s = self._clock()

    def lost(self, frames: int) -> None:
        """Record that frames have lost their connection and get no answer."""
        with self._lock:
            self._outstanding = max(0, self._outstanding - frames)

    def server_failed(self, cause: Unavailable) -> None:
        """Record that an attempt to reach the server has failed."""
        with self._lock:
            self._latest_failure_s, self._cause = self._clock(), describe(cause)
            if self._failing_since_s is None:
                self._failing_since_s = (
                    self._waiting_since_s if self._outstanding else self._latest_failure_s
                )

    def source_away(self, away: bool) -> None:
        """Record that the camera or folder cannot be read, or can be read again."""
        with self._lock:
            self._source_away_since_s = self._clock() if away else None

    def outage(self) -> Outage | None:
        """Return the outage of this moment."""
        with self._lock:
            now_s = self._clock()
            found = self._find(now_s)
        return found if found is not None and found.duration_s >= _GRACE_S else None

    def _find(self, now_s: float) -> Outage | None:
        if self._failing_since_s is not None:
            if now_s - self._latest_failure_s < _ATTEMPTS_END_S:
                return Outage("server unreachable", now_s - self._failing_since_s, self._cause)
            self._failing_since_s = None
        if self._outstanding and now_s - self._waiting_since_s > _SILENT_AFTER_S:
            return Outage("no answer from the server", now_s - self._waiting_since_s)
        if self._source_away_since_s is not None:
            return Outage("source unreachable", now_s - self._source_away_since_s)
        if self._refused_since_s is not None and now_s - self._refused_since_s > _SILENT_AFTER_S:
            return Outage("every frame refused", now_s - self._refused_since_s, self._refusal)
        return None


class OutageReporter:
    """A thread that reports outages in lines: at once, then at growing intervals, and at the end."""

    def __init__(
        self, monitor: OutageMonitor, report: Callable[[str], None], *, interval_s: float = 0.5
    ) -> None:
        """Report outages.

        Args:
            monitor: the monitor of the stream.
            report: called with each line.
            interval_s: interval at which the monitor is read, in seconds.
        """
        self._monitor = monitor
        self._report = report
        self._interval_s = interval_s
        self._ended = Event()
        self._thread = Thread(target=self._run, name="outages", daemon=True)
        self.total_s = 0.0
        """Length of all outages, in seconds."""
        self.count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        current: Outage | None = None
        next_line_s, pause_s = 0.0, _FIRST_REPEAT_S
        while True:
            ended = self._ended.wait(self._interval_s)
            found = self._monitor.outage()
            if current is not None and (found is None or ended or found.reason != current.reason):
                self.count += 1
                self.total_s += current.duration_s
                if found is None:
                    self._report(f"inspecting again after {current.duration_s:.0f} s: {current.reason}")
                current = None
            if ended:
                return
            if found is not None:
                if current is None:
                    next_line_s, pause_s = 0.0, _FIRST_REPEAT_S
                if found.duration_s >= next_line_s:
                    self._report(": ".join(filter(None, (found.headline, found.detail))))
                    next_line_s, pause_s = found.duration_s + pause_s, min(2 * pause_s, _LONGEST_REPEAT_S)
            current = found
