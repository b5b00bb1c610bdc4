# SPDX-License-Identifier: Apache-2.0
"""A bulk embedding, whose shards any number of workers run in parallel."""

import time

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.lease import LeaseHeld
from blemish_core.jobs.record import EmbedSpec
from blemish_core.jobs.reporter import JobReporter, NullReporter
from blemish_core.jobs.shards import EMBEDDING, MAX_FAILURES, Shard, ShardTracker
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.step_supervisor import POLL_S, StepFailed, StepSupervisor

log = structlog.get_logger(__name__)


class BulkEmbedding:
    """The shards of one job, as one worker runs them."""

    def __init__(
        self, job: str, spec: EmbedSpec, tracker: ShardTracker, supervisor: StepSupervisor
    ) -> None:
        self._job = job
        self._spec = spec
        self._tracker = tracker
        self._supervisor = supervisor

    def run(self, reporter: JobReporter, images: int) -> int:
        """Run every free shard, wait for those of other workers, and return the number of points.

        Args:
            reporter: receives the progress of the whole job.
            images: number of images of the job.

        Raises:
            StepFailed: if a shard failed too often.
            JobCancelled, Superseded, WorkerStopping, JobLimitExceeded: if the job may not continue.
        """
        while len(finished := self._tracker.points()) < self._tracker.of:
            shard_reporter = _ShardReporter(reporter, images, sum(finished.values()))
            shard_reporter.progress(EMBEDDING, 0, images, "images")
            if not self._run_free_shard(shard_reporter):
                # Other workers hold the remaining shards; the lease of a dead worker expires.
                self._supervisor.check_wanted()
                time.sleep(POLL_S)
        points = sum(finished.values())
        reporter.progress(EMBEDDING, points, points, "images")
        return points

    def run_free_shards(self) -> None:
        """Run shards until none is free; another worker reports the progress of the job.

        Raises:
            JobCancelled, Superseded, WorkerStopping, JobLimitExceeded: if the job may not continue.
        """
        try:
            while self._run_free_shard(NullReporter()):
                pass
        except StepFailed as error:
            log.warning("stopped running shards", error=str(error))

    def _run_free_shard(self, reporter: JobReporter) -> bool:
        """Run one free shard; return False if none is free.

        Raises:
            StepFailed: if the shard has failed too often.
        """
        for shard, lease in self._tracker.unfinished():
            try:
                with lease:
                    if not self._tracker.is_finished(shard):
                        self._run_shard(shard, reporter)
                    return True
            except LeaseHeld:
                continue
        return False

    def _run_shard(self, shard: Shard, reporter: JobReporter) -> None:
        step = messages.Embed(job=self._job, spec=self._spec, shard=shard.number, shards=shard.of)
        try:
            self._tracker.mark_finished(shard, self._supervisor.run(step, reporter).points)
        except (StepFailed, ChildDied) as error:
            failures = self._tracker.record_failure(shard)
            log.warning("shard failed", shard=shard.number, failures=failures, error=str(error))
            if failures >= MAX_FAILURES:
                raise StepFailed(
                    f"shard {shard.number + 1} of {shard.of} failed {failures} times, last with: {error}"
                ) from error


class _ShardReporter:
    """A reporter that turns the progress of a shard into progress of the whole job."""

    def __init__(self, reporter: JobReporter, images: int, finished_images: int) -> None:
        self._reporter = reporter
        self._images = images
        self._finished_images = finished_images

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        if phase == EMBEDDING:
            done, total = min(self._finished_images + done, self._images), self._images
        self._reporter.progress(phase, done, total, unit)

    def warn(self, text: str) -> None:
        self._reporter.warn(text)

    def announce(self, plan: str) -> None:
        self._reporter.announce(plan)

    def commit(self) -> None:
        raise NotImplementedError("a shard publishes nothing")
