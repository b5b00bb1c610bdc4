# SPDX-License-Identifier: Apache-2.0
"""Has a child do steps of a job for as long as they are wanted and stay within their limits."""

import threading
import time
from contextlib import suppress
from typing import Protocol

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Superseded
from blemish_core.jobs.record import Job, JobState, Limits, Phase
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import JobCancelled, Unavailable
from blemish_workers.runner.child_process import ChildDied, ChildProcess
from blemish_workers.runner.slots import Slot

LISTEN_S = 0.25
_LOOK_EVERY_S = 0.5


class StepFailed(Exception):
    """The child could not do it; the text is for the job's owner."""


class LimitExceeded(Exception):
    """The attempt took more than it may; the text is for the job's owner."""


class Stopped(Exception):
    """This worker was told to stop."""


class StepListener(Protocol):
    """Hears what a child says of its step."""

    def progress(self, phase: Phase) -> None: ...
    def warn(self, text: str) -> None: ...
    def commit(self) -> None: ...


class StepSupervisor:
    """Of one attempt at a job, on one slot."""

    def __init__(
        self, store: JobStore, job: Job, slot: Slot, limits: Limits, stopping: threading.Event
    ) -> None:
        self._store = store
        self._job = job
        self._slot = slot
        self._limits = _stricter(limits, job.limits)
        self._stopping = stopping
        self._began = time.monotonic()
        self._looked = float("-inf")

    def do(self, step: messages.Step, hearing: StepListener) -> messages.Done:
        """Have the slot's child do a step.

        Raises:
            StepFailed: if it could not.
            ChildDied: if it died over it.
            JobCancelled, Superseded, Stopped, LimitExceeded: if it is not to go on.
            Unavailable: if it may not commit because Redis does not answer.
        """
        child = self._slot.child()
        child.tell(step)
        committed = False
        try:
            while True:
                match child.next(LISTEN_S):
                    case messages.Reached(phase=phase):
                        hearing.progress(phase)
                    case messages.Warned(text=text):
                        hearing.warn(text)
                    case messages.CommitRequest():
                        hearing.commit()
                        committed = True
                        child.tell(messages.CommitGranted())
                    case messages.Done() as done:
                        return done
                    case messages.Failed(error=error):
                        raise StepFailed(error)
                if not committed:
                    self.look()
                    self._measure(child)
                self._keep_lines(child)
        except (StepFailed, ChildDied):
            raise
        except BaseException:
            # It is still at it: it would make a version that nobody wants, or take the next step for a Go.
            self._slot.close()
            raise
        finally:
            self._keep_lines(child)

    def look(self) -> None:
        """See, twice a second, whether the job is still wanted of this worker.

        Raises:
            JobCancelled: if it was asked to end.
            Superseded: if another attempt has begun, or it has ended.
            Stopped: if the worker is to stop.
        """
        if self._stopping.is_set():
            raise Stopped
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            job = self._store.get(self._job.id)
        except Unavailable:
            return  # nobody can want it less meanwhile
        if job.state is JobState.CANCELLING:
            raise JobCancelled(f"jobs/{job.id} was cancelled")
        if job.state is not JobState.RUNNING or job.attempt != self._job.attempt:
            raise Superseded(f"jobs/{job.id} is at attempt {job.attempt}, {job.state}")

    def _measure(self, child: ChildProcess) -> None:
        took_s, most_s = time.monotonic() - self._began, self._limits.max_seconds
        if most_s and took_s > most_s:
            raise LimitExceeded(
                f"it took longer than the {most_s:g} s that it may; ask again with a longer max_run_time, "
                "or for less: fewer steps, a smaller input_size or coreset_ratio"
            )
        held, most = child.memory_bytes(), self._limits.max_bytes
        if most and held > most:
            raise LimitExceeded(
                f"it took {held / 2**20:.0f} MiB of memory, more than the {most / 2**20:.0f} MiB that it "
                "may; ask again with a larger max_memory_bytes, or for less: a smaller input_size or "
                "coreset_ratio"
            )

    def _keep_lines(self, child: ChildProcess) -> None:
        if lines := child.lines():
            with suppress(Unavailable):  # the worker's own log has them
                self._store.append_log(self._job.id, lines)


def _stricter(one: Limits, other: Limits) -> Limits:
    def least(a: float, b: float) -> float:
        return min(a, b) if a and b else a or b

    return Limits(
        max_seconds=least(one.max_seconds, other.max_seconds),
        max_bytes=int(least(one.max_bytes, other.max_bytes)),
    )
