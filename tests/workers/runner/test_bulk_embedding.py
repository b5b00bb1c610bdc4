# SPDX-License-Identifier: Apache-2.0
"""A bulk embedding runs shard by shard; only a failed shard runs again."""

import threading

import pytest
from tests.support.child_process import FakeSlot
from tests.support.job_reporter import RecordingReporter
from tests.support.job_store import EMBED, FakeJobStore

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt
from blemish_core.jobs.record import Limits
from blemish_core.jobs.shards import EMBEDDING, ShardTracker
from blemish_workers.runner.bulk_embedding import BulkEmbedding
from blemish_workers.runner.step_supervisor import StepFailed, StepSupervisor

SHARDS = 3


@pytest.fixture
def attempt(store: FakeJobStore) -> Attempt:
    """Begin an attempt at a job that is divided into shards."""
    begun = Attempt.begin(store, store.add(EMBED).id, "line-3:77")
    assert begun is not None
    begun.divide(SHARDS)
    return begun


def bulk_embedding(store: FakeJobStore, attempt: Attempt, slot: FakeSlot) -> BulkEmbedding:
    id = attempt.job.id
    supervisor = StepSupervisor(store, store.get(id), slot, Limits(), threading.Event())
    return BulkEmbedding(id, EMBED, ShardTracker(store, id, SHARDS), supervisor)


def started_shards(slot: FakeSlot) -> list[int]:
    return [message.shard for message in slot.child().sent if isinstance(message, messages.Embed)]


def test_progress_of_shards_counts_for_the_whole_job(store: FakeJobStore, attempt: Attempt) -> None:
    half = messages.Progressed(phase=EMBEDDING, done=2, total=4, unit="images")
    slot = FakeSlot([messages.Done(points=4), half, messages.Done(points=5), messages.Done(points=0)])
    reporter = RecordingReporter()
    assert bulk_embedding(store, attempt, slot).run(reporter, images=10) == 9
    assert started_shards(slot) == [0, 1, 2]
    counts = [(0, 10), (4, 10), (6, 10), (9, 10), (9, 9)]
    assert reporter.progressed == [(EMBEDDING, done, total) for done, total in counts]


def test_shards_of_an_earlier_attempt_do_not_run_again(store: FakeJobStore, attempt: Attempt) -> None:
    store.set_shard_count(attempt.job.id, "1", 7)
    slot = FakeSlot([messages.Done(points=1), messages.Done(points=1)])
    assert bulk_embedding(store, attempt, slot).run(attempt, images=9) == 9
    assert started_shards(slot) == [0, 2]


def test_only_the_failed_shard_runs_again(store: FakeJobStore, attempt: Attempt) -> None:
    slot = FakeSlot([messages.Failed(error="x"), *[messages.Done(points=3)] * 3])
    assert bulk_embedding(store, attempt, slot).run(attempt, images=9) == 9
    assert started_shards(slot) == [0, 0, 1, 2]


def test_job_fails_if_one_shard_fails_too_often(store: FakeJobStore, attempt: Attempt) -> None:
    slot = FakeSlot([messages.Done(points=3), *["was killed by SIGBUS"] * 3])
    with pytest.raises(StepFailed, match="shard 2 of 3 failed 3 times, last with: was killed by SIGBUS"):
        bulk_embedding(store, attempt, slot).run(attempt, images=9)


def test_helper_runs_only_shards_without_a_lease(store: FakeJobStore, attempt: Attempt) -> None:
    store.leases[f"{attempt.job.id}.0"] = "another worker"
    slot = FakeSlot([messages.Done(points=3), messages.Done(points=3)])
    bulk_embedding(store, attempt, slot).run_free_shards()
    assert started_shards(slot) == [1, 2]
    assert store.shard_counts(attempt.job.id) == {"1": 3, "2": 3}
