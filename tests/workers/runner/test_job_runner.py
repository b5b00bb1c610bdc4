# SPDX-License-Identifier: Apache-2.0
"""Jobs end with the reason of their failure, and leave no unfinished version behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.child_process import FakeSlot
from tests.support.job_context import make_job_context
from tests.support.job_store import EMBED, TRAIN, FakeJobStore

from blemish_core.jobs.attempt import Attempt
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.messages import Done, FromChild
from blemish_core.jobs.record import EmbedSpec, Job, JobState, Limits, TrainSpec
from blemish_core.platform.disk import StoreDisk
from blemish_workers.runner.cleanup import discard_staged_files
from blemish_workers.runner.job_runner import JobRunner


def job_runner(store: FakeJobStore, context: JobContext) -> JobRunner:
    return JobRunner(store, context, "line-3:77", Limits(), lambda job: None, lambda job, at_most: None)


def no_dataset(folder: Path) -> None: ...


def damaged_dataset(folder: Path) -> None:
    empty_dataset(folder)
    (folder / "datasets" / "tile" / "dataset.json").write_text("{")


def empty_dataset(folder: Path) -> None:
    make_job_context(folder).datasets.create("tile", "")


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (no_dataset, "there is no datasets/tile"),
        (damaged_dataset, "tile"),
        (empty_dataset, "has no test images to index"),
    ],
)
def test_job_with_an_unusable_dataset_fails(
    store: FakeJobStore, tmp_path: Path, prepare: Callable[[Path], None], error: str
) -> None:
    prepare(tmp_path)
    job = store.add(EMBED)
    slot = FakeSlot()
    job_runner(store, make_job_context(tmp_path)).run(job.id, slot)
    ended = store.get(job.id)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 1)
    assert error in ended.error
    assert slot.children == []
    assert store.leases == {}


@pytest.mark.parametrize("spec", [TRAIN, EMBED])
def test_job_without_space_on_the_disk_fails_with_a_sentence(
    store: FakeJobStore, tmp_path: Path, spec: TrainSpec | EmbedSpec
) -> None:
    context = replace(make_job_context(tmp_path), disk=StoreDisk(tmp_path, 1 << 60))
    job = store.add(spec)
    slot = FakeSlot()
    job_runner(store, context).run(job.id, slot)
    ended = store.get(job.id)
    assert ended.state is JobState.FAILED
    assert "free, less than the" in ended.error
    assert "free some space" in ended.error
    assert slot.children == []


class WritingJob:
    """A job whose child has begun to write a version."""

    def __init__(self, store: FakeJobStore, folder: Path) -> None:
        self.context = make_job_context(folder)
        self._store = store
        self._job = store.add(TRAIN)

    @property
    def record(self) -> Job:
        return self._store.get(self._job.id)

    @property
    def staged(self) -> list[str]:
        """Ids of the jobs with an unfinished version."""
        return list(self.context.models.staged_folders())

    def stage(self) -> None:
        folder = self.context.models.folder(TRAIN.model_id, 1)
        folder.with_name(f".staging-{self._job.id}-{'0' * 32}").mkdir(parents=True)
        assert self.staged == [self._job.id]

    def supersede(self) -> None:
        """Begin an attempt of another worker, which discards unfinished versions."""
        other = Attempt.begin(self._store, self._job.id, "line-4:78")
        assert other is not None
        discard_staged_files(self.context, other.job)

    def succeed(self) -> None:
        self._store.change(self._job.id, lambda job: job.with_state(JobState.SUCCEEDED))

    def run(self, *actions: Callable[[], None], message: FromChild | None = None) -> None:
        """Run the job with a child that sends ``message`` after all actions."""

        def act() -> None:
            for action in actions:
                action()

        job_runner(self._store, self.context).run(self._job.id, FakeSlot((act, message)))


def test_superseded_attempt_deletes_its_files_if_the_job_has_ended(
    store: FakeJobStore, tmp_path: Path
) -> None:
    job = WritingJob(store, tmp_path)
    job.run(job.supersede, job.stage, job.succeed)
    assert job.record.attempt == 2
    assert job.staged == []


def test_superseded_attempt_keeps_files_of_running_attempt(store: FakeJobStore, tmp_path: Path) -> None:
    job = WritingJob(store, tmp_path)
    job.run(job.supersede, job.stage)
    assert job.staged == [job.record.id]


def test_successful_attempt_deletes_files_of_superseded_attempt(
    store: FakeJobStore, tmp_path: Path
) -> None:
    job = WritingJob(store, tmp_path)
    job.run(job.stage, message=Done())
    assert job.record.state is JobState.SUCCEEDED
    assert job.staged == []


def test_stopped_worker_requeues_its_job(store: FakeJobStore, tmp_path: Path) -> None:
    sent: list[str] = []
    job = store.add(TRAIN)
    runner = JobRunner(
        store,
        make_job_context(tmp_path),
        "line-3:77",
        Limits(),
        lambda job: sent.append(job.id),
        lambda job, at_most: None,
    )
    slot = FakeSlot((runner.stop, Done()))
    runner.run(job.id, slot)
    requeued = store.get(job.id)
    assert (requeued.state, requeued.deaths) == (JobState.QUEUED, 0)
    assert requeued.history[-1].why == "its worker was stopped"
    assert sent == [job.id]
    assert slot.kills == 1


def test_job_runs_again_after_the_death_of_its_child(store: FakeJobStore, tmp_path: Path) -> None:
    job = store.add(TRAIN)
    slot = FakeSlot(("was killed by SIGKILL", Done()))
    job_runner(store, make_job_context(tmp_path)).run(job.id, slot)
    ended = store.get(job.id)
    assert (ended.state, ended.attempt, ended.deaths) == (JobState.SUCCEEDED, 2, 1)
    assert ended.history[1].why == "the process of attempt 1 was killed by SIGKILL"


def test_leased_job_is_left_to_its_worker(store: FakeJobStore, tmp_path: Path) -> None:
    job = store.add(TRAIN)
    store.leases[job.id] = "another worker"
    slot = FakeSlot((Done(),))
    job_runner(store, make_job_context(tmp_path)).run(job.id, slot)
    assert store.get(job.id) == job
    assert slot.children == []
