# SPDX-License-Identifier: Apache-2.0
"""The supervision of a step in a child process: limits, cancellation, and the job's log."""

import threading
import time
from contextlib import suppress

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Superseded
from blemish_core.jobs.record import Job, JobState, Limits
from blemish_core.jobs.reporter import JobReporter
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import JobCancelled, Unavailable
from blemish_workers.runner.child_process import ChildDied, ChildProcess
from blemish_workers.runner.slots import Slot

POLL_S = 0.25
"""Time between two checks of a running step, in seconds."""

CHECK_EVERY_S = 0.5
"""Time between two reads of the job's record, in seconds."""


class StepFailed(Exception):
    """The step failed; the message is for the job's owner."""


class JobLimitExceeded(Exception):
    """The attempt exceeded a limit; the message is for the job's owner."""


class WorkerStopping(Exception):
    """The worker is shutting down."""


class StepSupervisor:
    """Runs the steps of one job attempt in a slot's child process.

    Args:
        store: the job records.
        job: record at the start of the attempt.
        slot: slot whose child runs the steps.
        limits: the worker's limits; the stricter of these and the job's own apply.
        stopping: set when the worker shuts down.
        check_every_s: minimum time between two reads of the job's record.
    """

    def __init__(
        self,
        store: JobStore,
        job: Job,
        slot: Slot,
        limits: Limits,
        stopping: threading.Event,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._store = store
        self._job = job
        self._slot = slot
        self._limits = _stricter(limits, job.limits)
        self._stopping = stopping
        self._check_every_s = check_every_s
        self._began_s = time.monotonic()
        self._checked_s = float("-inf")

    def run(self, step: messages.Step, reporter: JobReporter) -> messages.Done:
        """Run a step in the slot's child and forward its messages to ``reporter``.

        Raises:
            StepFailed: if the step failed.
            ChildDied: if the child died.
            JobCancelled, Superseded, WorkerStopping, JobLimitExceeded: if the step may not continue.
            Unavailable: if the reporter cannot commit because Redis does not answer.
        """
        child = self._slot.child()
        child.send(step)
        committed = False
        try:
            while True:
                match child.receive(POLL_S):
                    case messages.Progressed() as at:
                        reporter.progress(at.phase, at.done, at.total, at.unit)
                    case messages.Warned(text=text):
                        reporter.warn(text)
                    case messages.Announced(plan=plan):
                        reporter.announce(plan)
                    case messages.CommitRequest():
                        reporter.commit()
                        committed = True
                        child.send(messages.CommitGranted())
                    case messages.Done() as done:
                        return done
                    case messages.Failed(error=error):
                        raise StepFailed(error)
                if not committed:
                    self.check_wanted()
                    self._check_limits(child)
                self._store_log(child)
        except (StepFailed, ChildDied):
            raise
        except BaseException:
            # The child still runs the step: it could publish it, or take the next step for a grant.
            self._slot.close()
            raise
        finally:
            self._store_log(child)

    def check_wanted(self) -> None:
        """Check that this worker should continue the job. Reads the record at most every half second.

        Raises:
            JobCancelled: if the job was cancelled.
            Superseded: if another attempt has begun or the job has ended.
            WorkerStopping: if the worker is shutting down.
        """
        if self._stopping.is_set():
            raise WorkerStopping
        if time.monotonic() - self._checked_s < self._check_every_s:
            return
        self._checked_s = time.monotonic()
        try:
            job = self._store.get(self._job.id)
        except Unavailable:
            return  # Redis is down, so no cancellation can have been recorded
        if job.state is JobState.CANCELLING:
            raise JobCancelled(f"jobs/{job.id} was cancelled")
        if job.state is not JobState.RUNNING or job.attempt != self._job.attempt:
            raise Superseded(f"jobs/{job.id} is at attempt {job.attempt}, {job.state}")

    def _check_limits(self, child: ChildProcess) -> None:
        max_s, max_bytes = self._limits.max_seconds, self._limits.max_bytes
        if max_s and time.monotonic() - self._began_s > max_s:
            raise JobLimitExceeded(
                f"the attempt took longer than its limit of {max_s:g} s; set a longer max_run_time, or "
                "reduce the steps, input_size or coreset_ratio"
            )
        used_bytes = child.memory_bytes()
        if max_bytes and used_bytes > max_bytes:
            raise JobLimitExceeded(
                f"the process used {used_bytes / 2**20:.0f} MiB of memory, more than its limit of "
                f"{max_bytes / 2**20:.0f} MiB; set a larger max_memory_bytes, or reduce input_size or "
                "coreset_ratio"
            )

    def _store_log(self, child: ChildProcess) -> None:
        if lines := child.lines():
            with suppress(Unavailable):  # the worker's own log has the lines too
                self._store.append_log(self._job.id, lines)


def _stricter(one: Limits, other: Limits) -> Limits:
    def stricter(a: float, b: float) -> float:
        return min(a, b) if a and b else a or b

    return Limits(
        max_seconds=stricter(one.max_seconds, other.max_seconds),
        max_bytes=int(stricter(one.max_bytes, other.max_bytes)),
    )
