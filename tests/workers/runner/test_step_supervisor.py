# SPDX-License-Identifier: Apache-2.0
"""A step is supervised to its end, and killed once it is unwanted or exceeds a limit."""

import threading

import pytest
from tests.support.child_process import FakeSlot, ScriptStep
from tests.support.job_store import TRAIN, FakeJobStore

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt, Superseded
from blemish_core.jobs.record import JobState, Limits, Result
from blemish_core.platform.errors import JobCancelled, Unavailable
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.step_supervisor import (
    JobLimitExceeded,
    StepFailed,
    StepSupervisor,
    WorkerStopping,
)

PROGRESS = messages.Progressed(phase="features", done=1, total=2, unit="images")
DONE = messages.Done(result=Result(model_version="models/tile/versions/1"))


def run(
    store: FakeJobStore,
    attempt: Attempt,
    *script: ScriptStep,
    limits: Limits | None = None,
    stopping: threading.Event | None = None,
    slot: FakeSlot | None = None,
) -> messages.Done:
    supervisor = StepSupervisor(
        store,
        attempt.job,
        slot or FakeSlot(script),
        limits or Limits(),
        stopping or threading.Event(),
        check_every_s=0.0,
    )
    return supervisor.run(messages.Train(job=attempt.job.id, spec=TRAIN), attempt)


def test_messages_of_the_child_reach_the_record_and_its_log(store: FakeJobStore, attempt: Attempt) -> None:
    warning = messages.Warned(text="an image is damaged")
    slot = FakeSlot([PROGRESS, warning, messages.CommitRequest(), DONE])
    assert run(store, attempt, slot=slot) == DONE
    job = store.get(attempt.job.id)
    (phase,) = job.phases
    assert (phase.name, phase.done, phase.total, phase.unit) == ("features", 1, 2, "images")
    assert job.warnings == ("an image is damaged",)
    assert job.committed
    assert isinstance(slot.child().sent[-1], messages.CommitGranted)
    assert store.log == ["a line"]


def test_cancelled_job_stops_before_the_next_message(store: FakeJobStore, attempt: Attempt) -> None:
    with pytest.raises(JobCancelled):
        run(store, attempt, PROGRESS, lambda: store.cancel(attempt.job.id), PROGRESS, DONE)


def test_cancelled_job_is_not_granted_a_commit(store: FakeJobStore, attempt: Attempt) -> None:
    store.cancel(attempt.job.id)
    slot = FakeSlot([messages.CommitRequest(), DONE])
    with pytest.raises(JobCancelled):
        run(store, attempt, slot=slot)
    assert [type(message) for message in slot.children[0].sent] == [messages.Train]


def test_committed_step_finishes_while_the_worker_stops(store: FakeJobStore, attempt: Attempt) -> None:
    stopping = threading.Event()
    done = run(store, attempt, messages.CommitRequest(), stopping.set, None, DONE, stopping=stopping)
    assert done == DONE


def test_new_attempt_supersedes_the_running_one(store: FakeJobStore, attempt: Attempt) -> None:
    def take_over() -> None:
        Attempt.begin(store, attempt.job.id, "line-4:5")

    with pytest.raises(Superseded):
        run(store, attempt, take_over, DONE)


def test_stopping_worker_stops_its_steps(store: FakeJobStore, attempt: Attempt) -> None:
    stopping = threading.Event()
    with pytest.raises(WorkerStopping):
        run(store, attempt, stopping.set, DONE, stopping=stopping)


@pytest.mark.parametrize(
    ("of_worker", "of_job", "message"),
    [
        (Limits(max_bytes=64 << 20), Limits(), "limit of 64 MiB"),
        (Limits(), Limits(max_bytes=32 << 20), "limit of 32 MiB"),
        (Limits(max_bytes=64 << 20), Limits(max_bytes=32 << 20), "limit of 32 MiB"),
        (Limits(max_bytes=32 << 20), Limits(max_bytes=64 << 20), "limit of 32 MiB"),
        (Limits(), Limits(max_seconds=1e-9), "limit of 1e-09 s"),
    ],
)
def test_stricter_limit_applies(
    store: FakeJobStore, of_worker: Limits, of_job: Limits, message: str
) -> None:
    attempt = Attempt.begin(store, store.add(TRAIN, limits=of_job).id, "line-3:77")
    assert attempt is not None
    with pytest.raises(JobLimitExceeded, match=message):
        run(store, attempt, PROGRESS, DONE, limits=of_worker)


def test_step_within_its_limits_succeeds(store: FakeJobStore, attempt: Attempt) -> None:
    limits = Limits(max_seconds=60, max_bytes=200 << 20)
    assert run(store, attempt, PROGRESS, DONE, limits=limits) == DONE


def test_step_continues_while_redis_is_unavailable(store: FakeJobStore, attempt: Attempt) -> None:
    def set_unavailable(unavailable: bool) -> None:
        store.unavailable = unavailable

    later = messages.Progressed(phase="features", done=2, total=2, unit="images")
    script: list[ScriptStep] = [
        lambda: set_unavailable(True),
        PROGRESS,
        None,
        lambda: set_unavailable(False),
        later,
        DONE,
    ]
    assert run(store, attempt, *script) == DONE
    job = store.get(attempt.job.id)
    assert [phase.done for phase in job.phases] == [2]
    assert job.state is JobState.RUNNING


def test_child_is_killed_if_redis_cannot_grant_its_commit(store: FakeJobStore, attempt: Attempt) -> None:
    def lose_redis() -> None:
        store.unavailable = True

    slot = FakeSlot([lose_redis, messages.CommitRequest()])
    with pytest.raises(Unavailable):
        run(store, attempt, slot=slot)
    assert slot.kills == 1


def test_child_of_a_cancelled_job_is_killed(store: FakeJobStore, attempt: Attempt) -> None:
    store.cancel(attempt.job.id)
    slot = FakeSlot([PROGRESS])
    with pytest.raises(JobCancelled):
        run(store, attempt, slot=slot)
    assert slot.kills == 1


def test_child_survives_success_and_failure_of_a_step(store: FakeJobStore, attempt: Attempt) -> None:
    slot = FakeSlot([DONE, messages.Failed(error="the disk is full"), DONE])
    assert run(store, attempt, slot=slot) == DONE
    with pytest.raises(StepFailed, match="the disk is full"):
        run(store, attempt, slot=slot)
    assert run(store, attempt, slot=slot) == DONE
    assert (slot.kills, len(slot.children)) == (0, 1)


def test_death_of_the_child_is_not_a_failed_step(store: FakeJobStore, attempt: Attempt) -> None:
    with pytest.raises(ChildDied, match="SIGKILL"):
        run(store, attempt, "was killed by SIGKILL")
