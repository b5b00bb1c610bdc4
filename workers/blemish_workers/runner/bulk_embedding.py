# SPDX-License-Identifier: Apache-2.0
"""A bulk embedding, part by part, with any number of workers that help."""

import time
from dataclasses import dataclass

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt
from blemish_core.jobs.lease import LeaseHeld
from blemish_core.jobs.record import EmbedSpec, Phase
from blemish_core.jobs.shards import EMBEDDING, MAX_FAILURES, Shard, ShardTracker
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.step_supervisor import LISTEN_S, StepFailed, StepListener, StepSupervisor

log = structlog.get_logger(__name__)


class BulkEmbedding:
    """The parts of one job, as one worker does them."""

    def __init__(self, job: str, spec: EmbedSpec, board: ShardTracker, oversight: StepSupervisor) -> None:
        self._job = job
        self._spec = spec
        self._board = board
        self._oversight = oversight

    def see_through(self, attempt: Attempt, images: int) -> int:
        """Do all parts that nobody else does, and wait for theirs; return the points of all.

        Raises:
            StepFailed: if a part failed too often.
            JobCancelled, Superseded, Stopped, LimitExceeded: if it is not to go on.
        """
        began_s, first = time.monotonic(), sum(self._board.points().values())
        while len(done := self._board.points()) < self._board.of:
            hearing = _OfTheWhole(attempt, images, began_s, first, sum(done.values()))
            hearing.progress(Phase(name=EMBEDDING, unit="images"))
            if not self._take_one(hearing):
                # What is left is in others' hands; those of a dead one are empty in 15 s.
                self._oversight.look()
                time.sleep(LISTEN_S)
        points = sum(done.values())
        took_s = time.monotonic() - began_s
        attempt.progress(Phase(name=EMBEDDING, done=points, total=points, unit="images", seconds=took_s))
        return points

    def help(self) -> None:
        """Do parts as long as there are any that nobody is at.

        Raises:
            JobCancelled, Superseded, Stopped, LimitExceeded: if it is not to go on.
        """
        try:
            while self._take_one(_Nobody()):
                pass
        except StepFailed as error:
            log.warning("helps no more", error=str(error))

    def _take_one(self, hearing: StepListener) -> bool:
        """Do a part that is not done and that nobody is at; return whether there was one.

        Raises:
            StepFailed: if it has failed too often.
        """
        for part, lease in self._board.unfinished():
            try:
                with lease:
                    if not self._board.is_done(part):
                        self._do(part, hearing)
                    return True
            except LeaseHeld:
                continue
        return False

    def _do(self, part: Shard, hearing: StepListener) -> None:
        step = messages.Embed(job=self._job, spec=self._spec, part=part.number, of=part.of)
        try:
            self._board.mark_done(part, self._oversight.do(step, hearing).points)
        except (StepFailed, ChildDied) as error:
            failures = self._board.record_failure(part)
            log.warning("part failed", part=part.number, failures=failures, error=str(error))
            if failures >= MAX_FAILURES:
                raise StepFailed(
                    f"part {part.number + 1} of {part.of} failed {failures} times, the last time: {error}"
                ) from error


@dataclass(frozen=True)
class _OfTheWhole:
    """Hears a part's progress as that of the job."""

    attempt: Attempt
    images: int
    began_s: float
    first: int
    """Of the job, done when it began."""
    before: int
    """Of the job, done when the part began; by whomever."""

    def progress(self, phase: Phase) -> None:
        if phase.name == EMBEDDING:
            done = min(self.before + phase.done, self.images)
            took_s, advanced = time.monotonic() - self.began_s, done - self.first
            left_s = took_s / advanced * (self.images - done) if advanced > 0 else None
            own = {"done": done, "total": self.images, "seconds": took_s, "remaining_s": left_s}
            phase = phase.model_copy(update=own)
        self.attempt.progress(phase)

    def warn(self, text: str) -> None:
        self.attempt.warn(text)

    def commit(self) -> None:
        raise NotImplementedError("a part of an embedding makes nothing visible")


class _Nobody:
    """Hears nothing: who sees the job through tells how far it is."""

    def progress(self, phase: Phase) -> None: ...
    def warn(self, text: str) -> None: ...
    def commit(self) -> None:
        raise NotImplementedError("a part of an embedding makes nothing visible")
