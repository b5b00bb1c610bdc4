# SPDX-License-Identifier: Apache-2.0
"""An idle worker requeues orphaned jobs, and exits if it no longer receives tasks."""

from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from tests.support.clock import FakeClock
from tests.support.job_context import make_job_context
from tests.support.job_store import EMBED, TRAIN, FakeJobStore

from blemish_core.jobs.queues import CANARY_TASK, RUN_TASK
from blemish_core.jobs.record import JobState, Limits
from blemish_core.jobs.training_rates import StoredRates
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_workers.maintenance import Maintenance, canary_queue
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.slots import Slots

NAME = "line-3:77"


class FakeCelery(Celery):
    """An application that keeps the tasks it is asked to send."""

    def __init__(self) -> None:
        super().__init__("test", set_as_current=False)
        self.sent: list[dict[str, Any]] = []

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        self.sent.append({"name": name} | options)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs sent."""
        return [task["args"][0] for task in self.sent if task["name"] == RUN_TASK]

    def canaries(self) -> list[str]:
        """Return the queues of the canaries sent."""
        return [task["queue"] for task in self.sent if task["name"] == CANARY_TASK]


class FakeSlots(Slots):
    """Slots without children; ``busy`` leaves none free."""

    def __init__(self) -> None:
        super().__init__(["cpu"])
        self.busy = False

    @property
    def has_free(self) -> bool:
        return not self.busy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr("blemish_workers.maintenance.time.monotonic", clock.monotonic)
    return clock


class IdleWorker:
    """A worker's maintenance, with what it sends and whether it has exited."""

    def __init__(self, store: FakeJobStore, queues: tuple[str, ...] = ("train", "embed")) -> None:
        self.app, self.slots = FakeCelery(), FakeSlots()
        self.exited = False
        context = make_job_context(Path("unused"))
        self.maintenance = Maintenance(
            name=NAME,
            queues=queues,
            app=self.app,
            store=store,
            registry=WorkerRegistry.connect("redis://unused"),
            slots=self.slots,
            runner=JobRunner(store, context, NAME, Limits(), lambda job: None, lambda job, at_most: None),
            rates=StoredRates(context.rates, context.runtime.name),
            apply_retention=lambda: None,
            exit_process=self._exit,
        )

    def _exit(self) -> None:
        self.exited = True


def test_job_without_a_lease_is_requeued_after_a_while(store: FakeJobStore, clock: FakeClock) -> None:
    worker = IdleWorker(store)
    lost, orphaned, cancelled, leased = (
        store.add(TRAIN),
        store.add(EMBED, JobState.RUNNING),
        store.add(TRAIN, JobState.CANCELLING),
        store.add(TRAIN, JobState.RUNNING),
    )
    store.add(TRAIN, JobState.FAILED)
    store.leases[leased.id] = "another worker"
    worker.maintenance.requeue_orphans()
    assert worker.app.jobs() == []
    clock.now_s += 6
    worker.maintenance.requeue_orphans()
    assert worker.app.jobs() == [lost.id, orphaned.id, cancelled.id]


def test_orphan_claimed_by_another_worker_is_not_requeued(store: FakeJobStore, clock: FakeClock) -> None:
    worker = IdleWorker(store)
    store.add(TRAIN)
    store.claimed_by_others = True
    for _ in range(5):
        worker.maintenance.requeue_orphans()
        clock.now_s += 6
    assert worker.app.jobs() == []


def test_job_that_makes_progress_is_not_requeued(store: FakeJobStore, clock: FakeClock) -> None:
    worker = IdleWorker(store)
    job = store.add(TRAIN, JobState.RUNNING)
    for _ in range(5):
        worker.maintenance.requeue_orphans()
        clock.now_s += 3
        store.change(job.id, lambda job: job.model_copy(update={"warnings": (*job.warnings, "x")}))
    assert worker.app.jobs() == []


def test_worker_that_could_not_run_a_job_does_not_requeue_it(store: FakeJobStore, clock: FakeClock) -> None:
    busy, other_queue = IdleWorker(store), IdleWorker(store, queues=("embed",))
    busy.slots.busy = True
    store.add(TRAIN)
    for worker in (busy, other_queue):
        worker.maintenance.requeue_orphans()
        clock.now_s += 6
        worker.maintenance.requeue_orphans()
        assert worker.app.sent == []


def test_worker_that_receives_its_canaries_sends_one_every_ten_seconds(
    store: FakeJobStore, clock: FakeClock
) -> None:
    worker = IdleWorker(store)
    for _ in range(100):
        before = len(worker.app.sent)
        worker.maintenance.send_canary()
        if len(worker.app.sent) > before:
            worker.maintenance.receive_canary()
        clock.now_s += 1
    assert worker.app.canaries() == [canary_queue(NAME)] * 10
    assert not worker.exited


def test_idle_worker_without_its_canary_exits_within_a_minute(
    store: FakeJobStore, clock: FakeClock
) -> None:
    worker = IdleWorker(store)
    for _ in range(60):
        worker.maintenance.send_canary()
        clock.now_s += 1
    assert worker.exited


def test_busy_worker_does_not_wait_for_a_canary(store: FakeJobStore, clock: FakeClock) -> None:
    worker = IdleWorker(store)
    worker.maintenance.send_canary()
    worker.slots.busy = True
    for _ in range(600):
        clock.now_s += 1
        worker.maintenance.send_canary()
    worker.slots.busy = False
    worker.maintenance.send_canary()
    assert not worker.exited


def test_worker_survives_an_outage_of_redis(store: FakeJobStore, clock: FakeClock) -> None:
    worker = IdleWorker(store)
    worker.maintenance.send_canary()
    store.unavailable = True
    clock.now_s += 100
    worker.maintenance.attempt(worker.maintenance.send_canary)
    store.unavailable = False
    worker.maintenance.attempt(worker.maintenance.send_canary)
    assert not worker.exited
    assert len(worker.app.canaries()) == 2
