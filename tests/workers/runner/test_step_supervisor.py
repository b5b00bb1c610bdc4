# SPDX-License-Identifier: Apache-2.0
"""A child's step is followed, and ended where it is not wanted or takes too much."""

import threading
from typing import Any

import pytest
from tests.workers.conftest import DONE, TRAIN, FakeSlot, MemoryStore

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt, Superseded
from blemish_core.jobs.record import JobState, Limits, Phase, Result
from blemish_core.platform.errors import JobCancelled, Unavailable
from blemish_workers.runner import step_supervisor
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.step_supervisor import LimitExceeded, StepFailed, StepSupervisor, Stopped

REACHED = messages.Reached(phase=Phase(name="features", done=1, total=2))


@pytest.fixture(autouse=True)
def at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_supervisor, "_LOOK_EVERY_S", 0.0)


@pytest.fixture
def attempt(store: MemoryStore) -> Attempt:
    begun = Attempt.begin(store, store.add(TRAIN).id, "line-3:77")  # type: ignore[arg-type]
    assert begun is not None
    return begun


def do(
    store: MemoryStore,
    attempt: Attempt,
    *script: Any,
    limits: Limits | None = None,
    stopping: threading.Event | None = None,
    slot: FakeSlot | None = None,
) -> messages.Done:
    watch = StepSupervisor(
        store,  # type: ignore[arg-type]
        attempt.job,
        slot or FakeSlot(script),  # type: ignore[arg-type]
        limits or Limits(),
        stopping or threading.Event(),
    )
    return watch.do(messages.Train(job=attempt.job.id, spec=TRAIN), attempt)


def test_what_the_child_says_reaches_the_job(store: MemoryStore, attempt: Attempt) -> None:
    slot = FakeSlot(
        [
            REACHED,
            messages.Warned(text="an image is damaged"),
            messages.CommitRequest(),
            messages.Done(result=Result(model_version="models/tile/versions/1")),
        ]
    )
    done = do(store, attempt, slot=slot)
    job = store.get(attempt.job.id)
    assert done.result == Result(model_version="models/tile/versions/1")
    assert job.phases == (REACHED.phase,)
    assert job.warnings == ("an image is damaged",)
    assert job.committed
    assert isinstance(slot.child().told[-1], messages.CommitGranted)
    assert store.log == ["a line"]


def test_a_cancelled_job_ends_before_the_next_message(store: MemoryStore, attempt: Attempt) -> None:
    with pytest.raises(JobCancelled):
        do(store, attempt, REACHED, lambda: store.cancel(attempt.job.id), REACHED, DONE)


def test_a_commit_after_a_cancellation_is_refused_and_the_child_never_goes_on(
    store: MemoryStore, attempt: Attempt
) -> None:
    store.cancel(attempt.job.id)
    slot = FakeSlot([messages.CommitRequest(), DONE])
    with pytest.raises(JobCancelled):
        do(store, attempt, slot=slot)
    assert [told.__class__ for told in slot.children[0].told] == [messages.Train]


def test_once_committed_nothing_ends_it(store: MemoryStore, attempt: Attempt) -> None:
    stopping = threading.Event()
    do(store, attempt, messages.CommitRequest(), stopping.set, None, DONE, stopping=stopping)


def test_another_attempt_ends_this_one(store: MemoryStore, attempt: Attempt) -> None:
    def take_over() -> None:
        Attempt.begin(store, attempt.job.id, "line-4:5")  # type: ignore[arg-type]

    with pytest.raises(Superseded):
        do(store, attempt, take_over, DONE)


def test_a_worker_that_stops_stops_its_jobs(store: MemoryStore, attempt: Attempt) -> None:
    stopping = threading.Event()
    with pytest.raises(Stopped):
        do(store, attempt, stopping.set, DONE, stopping=stopping)


@pytest.mark.parametrize(
    ("of_worker", "of_job", "told"),
    [
        (Limits(max_bytes=64 << 20), Limits(), "more than the 64 MiB"),
        (Limits(), Limits(max_bytes=32 << 20), "more than the 32 MiB"),
        (Limits(max_bytes=64 << 20), Limits(max_bytes=32 << 20), "more than the 32 MiB"),
        (Limits(max_bytes=32 << 20), Limits(max_bytes=64 << 20), "more than the 32 MiB"),
        (Limits(), Limits(max_seconds=1e-9), "longer than the 1e-09 s"),
    ],
)
def test_the_stricter_limit_ends_it(
    store: MemoryStore, of_worker: Limits, of_job: Limits, told: str
) -> None:
    begun = Attempt.begin(store, store.add(TRAIN, limits=of_job).id, "line-3:77")  # type: ignore[arg-type]
    assert begun is not None
    with pytest.raises(LimitExceeded, match=told):
        do(store, begun, REACHED, DONE, limits=of_worker)


def test_within_its_limits_it_ends_by_itself(store: MemoryStore, attempt: Attempt) -> None:
    do(store, attempt, REACHED, DONE, limits=Limits(max_seconds=60, max_bytes=200 << 20))


def test_while_redis_is_away_the_work_goes_on(store: MemoryStore, attempt: Attempt) -> None:
    def away(is_away: bool) -> None:
        store.away = is_away

    do(store, attempt, lambda: away(True), REACHED, None, lambda: away(False), REACHED, DONE)
    assert store.get(attempt.job.id).phases == (REACHED.phase,)
    assert store.get(attempt.job.id).state is JobState.RUNNING


def test_a_child_that_goes_on_unwanted_is_ended(
    store: MemoryStore, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blemish_core.jobs.attempt._PATIENCE_S", 0.0)

    def away() -> None:
        store.away = True

    # Redis is away for so long that the child, which asks whether it may commit, gets no answer.
    slot = FakeSlot([away, messages.CommitRequest()])
    with pytest.raises(Unavailable):
        do(store, attempt, slot=slot)
    assert slot.ended == 1
    store.away = False
    store.cancel(attempt.job.id)
    slot = FakeSlot([REACHED])
    with pytest.raises(JobCancelled):
        do(store, attempt, slot=slot)
    assert slot.ended == 1


def test_a_child_that_is_done_or_failed_stays(store: MemoryStore, attempt: Attempt) -> None:
    slot = FakeSlot([DONE, messages.Failed(error="the disk is full"), DONE])
    do(store, attempt, slot=slot)
    with pytest.raises(StepFailed):
        do(store, attempt, slot=slot)
    do(store, attempt, slot=slot)
    assert (slot.ended, len(slot.children)) == (0, 1)


def test_failure_and_death_are_told_apart(store: MemoryStore, attempt: Attempt) -> None:
    with pytest.raises(StepFailed, match="the disk is full"):
        do(store, attempt, messages.Failed(error="the disk is full"))
    with pytest.raises(ChildDied, match="SIGKILL"):
        do(store, attempt, "was killed by SIGKILL")
