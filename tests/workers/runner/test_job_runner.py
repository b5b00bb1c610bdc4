# SPDX-License-Identifier: Apache-2.0
"""What goes wrong before a child is asked ends the job with its reason; nobody leaves a half version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.workers.conftest import DONE, EMBED, TRAIN, FakeSlot, MemoryStore

from blemish_core.jobs.attempt import Attempt
from blemish_core.jobs.messages import Said
from blemish_core.jobs.record import EmbedSpec, Job, JobState, Limits
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, Corrupt, FailedPrecondition, NotFound
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.premises import WorkerStores


class BrokenPremises:
    def __init__(self, error: BlemishError) -> None:
        self._error = error

    def count_to_embed(self, spec: EmbedSpec) -> int:
        raise self._error

    def discard_staged(self, job: Job) -> None: ...
    def discard_all(self, job: Job) -> None: ...
    def forget_checkpoint(self, job: Job) -> None: ...


def foreman(store: MemoryStore, premises: Any) -> JobRunner:
    rest: Any = (store, premises, "line-3:77", Limits(), lambda job: None, lambda job, at_most: None)
    return JobRunner(*rest)


@pytest.mark.parametrize("kind", [Corrupt, NotFound, FailedPrecondition])
def test_a_dataset_that_cannot_be_read_fails_the_job(store: MemoryStore, kind: type[BlemishError]) -> None:
    premises = BrokenPremises(kind("the dataset is damaged"))
    slot: Any = FakeSlot()
    job = store.add(EMBED)
    foreman(store, premises).see_through(job.id, slot)
    ended = store.get(job.id)
    assert (ended.state, ended.error, ended.attempt) == (JobState.FAILED, "the dataset is damaged", 1)
    assert store.leases == {}


class Writing:
    """A job whose child has begun to write a version."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.models = ModelStore(folder / "models")
        self.store: Any = store
        self.job = store.add(TRAIN)
        nowhere: Any = None
        self.premises = WorkerStores(nowhere, nowhere, self.models, folder / "checkpoints", nowhere)

    def stage(self) -> None:
        folder = self.models.folder(TRAIN.model_id, 1).with_name(f".staging-{self.job.id}-{'0' * 32}")
        folder.mkdir(parents=True)
        assert self.models.staged_folders() == {self.job.id: [folder]}

    def take_over(self) -> None:
        """Another worker begins with it, and what it finds half written it removes."""
        other = Attempt.begin(self.store, self.job.id, "line-4:78")
        assert other is not None
        self.premises.discard_staged(other.job)

    def end(self) -> None:
        self.store.change(self.job.id, lambda job: job.with_state(JobState.SUCCEEDED))

    def see_through(self, *steps: Callable[[], None], says: Said | None = None) -> None:
        """See the job through with a child that says something after all those steps at once."""

        def happen() -> None:
            for step in steps:
                step()

        slot: Any = FakeSlot((happen, says))
        foreman(self.store, self.premises).see_through(self.job.id, slot)


def test_who_is_superseded_by_an_attempt_that_has_ended_takes_its_half_version_along(
    store: MemoryStore, tmp_path: Path
) -> None:
    at = Writing(store, tmp_path)
    at.see_through(at.take_over, at.stage, at.end)
    assert store.get(at.job.id).attempt == 2
    assert at.models.staged_folders() == {}


def test_who_is_superseded_by_an_attempt_that_goes_on_leaves_what_that_one_writes(
    store: MemoryStore, tmp_path: Path
) -> None:
    at = Writing(store, tmp_path)
    at.see_through(at.take_over, at.stage)
    assert list(at.models.staged_folders()) == [at.job.id]


def test_who_succeeds_removes_the_half_version_of_an_attempt_that_was_superseded(
    store: MemoryStore, tmp_path: Path
) -> None:
    at = Writing(store, tmp_path)
    at.see_through(at.stage, says=DONE)
    assert store.get(at.job.id).state is JobState.SUCCEEDED
    assert at.models.staged_folders() == {}
