# SPDX-License-Identifier: Apache-2.0
"""The interface through which a job reports progress, warns and commits, and its implementations."""

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from blemish_core.jobs.record import Phase

_INTERVAL_S = 0.2
_MAX_INTERVAL_S = 5.0


class JobReporter(Protocol):
    """A receiver of the events of one attempt at a job.

    Detectors, evaluation and stores do not import jobs. They take ``progress`` or ``warn`` as a callable.
    """

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        """Report that ``done`` of ``total`` units of a phase are done; ``total`` is 0 while unknown."""

    def warn(self, text: str) -> None:
        """Add a warning to the job."""

    def announce(self, plan: str) -> None:
        """Record the plan of the job before its work begins."""

    def commit(self) -> None:
        """Block until the result may be published.

        Raises:
            JobCancelled: if the job was cancelled.
            Superseded: if another attempt has begun.
        """


class StepReporter(JobReporter, Protocol):
    """A receiver of the events of one step, and of lines for the job's log."""

    def note(self, text: str) -> None:
        """Write a line for people to the job's log."""


def waiting_for_qdrant(reporter: JobReporter) -> Callable[[], None]:
    """Return a callback for ``retry_until_available`` that reports the wait as a phase."""
    return partial(reporter.progress, "waiting for Qdrant", 0, 0, "")


class NullReporter:
    """A reporter that discards everything and never blocks a commit."""

    def progress(self, phase: str, done: int, total: int, unit: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def announce(self, plan: str) -> None: ...
    def note(self, text: str) -> None: ...
    def commit(self) -> None: ...


class WarningCollector:
    """A reporter that forwards everything and keeps the warnings, for the report page."""

    def __init__(self, reporter: StepReporter) -> None:
        self._reporter = reporter
        self.warnings: list[str] = []

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        self._reporter.progress(phase, done, total, unit)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)
        self.warnings.append(text)

    def announce(self, plan: str) -> None:
        self._reporter.announce(plan)

    def note(self, text: str) -> None:
        self._reporter.note(text)

    def commit(self) -> None:
        self._reporter.commit()


class ThrottledReporter:
    """A reporter that forwards the start and end of each phase, and progress in between at intervals.

    The interval grows with the duration of the phase, because each report is stored in Redis.
    """

    def __init__(self, reporter: JobReporter) -> None:
        self._reporter = reporter
        self._phase = ""
        self._began_s = 0.0
        self._reported_s = float("-inf")

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        now_s = time.monotonic()
        if phase != self._phase:
            self._phase, self._began_s, self._reported_s = phase, now_s, float("-inf")
        interval_s = min(_MAX_INTERVAL_S, max(_INTERVAL_S, (now_s - self._began_s) / 1000))
        if done == total or now_s - self._reported_s >= interval_s:
            self._reported_s = now_s
            self._reporter.progress(phase, done, total, unit)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)

    def announce(self, plan: str) -> None:
        self._reporter.announce(plan)

    def commit(self) -> None:
        self._reporter.commit()


class StoryReporter:
    """A reporter that forwards everything, and writes the story of the step to the job's log.

    Each line begins with the seconds since the step began. A phase gets a line at its end.
    """

    def __init__(self, reporter: JobReporter, write: Callable[[str], None]) -> None:
        self._reporter = reporter
        self._write = write
        self._began_s = self._entered_s = time.monotonic()
        self._phase = ""
        self._done = self._total = 0
        self._unit = ""

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        if phase != self._phase:
            self.end_phase()
            self._phase, self._entered_s = phase, time.monotonic()
        self._done, self._total, self._unit = done, total, unit
        self._reporter.progress(phase, done, total, unit)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")
        self._reporter.warn(text)

    def announce(self, plan: str) -> None:
        self.note(f"plan: {plan}")
        self._reporter.announce(plan)

    def note(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"{time.monotonic() - self._began_s:7.1f} s  {line}")

    def commit(self) -> None:
        self._reporter.commit()

    def end_phase(self, problem: str = "") -> None:
        """Write the line of the phase that has ended, with a ``problem`` if it ended early."""
        if not self._phase:
            return
        count = f"{self._done} of {self._total}" if self._done != self._total else str(self._done)
        seconds = time.monotonic() - self._entered_s
        self.note(f"{self._phase}: {count} {self._unit}, {seconds:.1f} s{problem}")
        self._phase = ""


class PhaseTimer:
    """Measures the time spent in each phase. A phase that is entered again continues its count."""

    def __init__(self) -> None:
        self._current = ""
        self._entered_s = 0.0
        self._spent: dict[str, float] = {}
        self._initially_done: dict[str, int] = {}

    def measure(self, name: str, done: int, total: int, unit: str) -> Phase:
        """Return the phase with the time spent in it and the time left at its average rate."""
        now_s = time.monotonic()
        if name != self._current:
            self._spent[self._current] = self._spent.get(self._current, 0.0) + now_s - self._entered_s
            self._current, self._entered_s = name, now_s
        seconds = self._spent.get(name, 0.0) + now_s - self._entered_s
        advanced = done - self._initially_done.setdefault(name, done)
        remaining_s = seconds / advanced * (total - done) if advanced > 0 and total else None
        return Phase(name=name, done=done, total=total, unit=unit, remaining_s=remaining_s, seconds=seconds)
