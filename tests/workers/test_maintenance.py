# SPDX-License-Identifier: Apache-2.0
"""An idle worker finds what nobody works on, and notices when nothing comes through to it."""

from typing import Any

import pytest
from tests.workers.conftest import EMBED, TRAIN, MemoryStore

from blemish_core.jobs.queues import CANARY, RUN
from blemish_core.jobs.record import JobState
from blemish_workers.maintenance import Maintenance, canary_queue

NAME = "line-3:77"


class FakeApp:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send_task(self, name: str, **how: Any) -> None:
        self.sent.append({"name": name} | how)

    def of(self, task: str) -> list[str]:
        return [args[0] if (args := each.get("args")) else "" for each in self.sent if each["name"] == task]


class FakeSlots:
    idle = True
    devices = ("cpu",)

    def jobs(self) -> tuple[str, ...]:
        return ()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("blemish_workers.maintenance.time.monotonic", clock.monotonic)
    return clock


class Rig:
    def __init__(self, store: MemoryStore, queues: tuple[str, ...] = ("train", "embed")) -> None:
        self.app, self.slots = FakeApp(), FakeSlots()
        self.given_up = 0
        rest: Any = (self.app, store, None, self.slots, self, lambda: None, self._give_up)
        self.caretaker = Maintenance(NAME, queues, *rest)

    def stop(self) -> None:
        """As the foreman's."""

    def _give_up(self) -> None:
        self.given_up += 1


def test_a_job_that_nobody_is_at_is_sent_again_once_it_has_lain(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    lost, orphaned, cancelled, held = (
        store.add(TRAIN),
        store.add(EMBED, JobState.RUNNING),
        store.add(TRAIN, JobState.CANCELLING),
        store.add(TRAIN, JobState.RUNNING),
    )
    store.add(TRAIN, JobState.FAILED)
    store.leases[held.id] = "somebody"
    rig.caretaker.look()
    assert rig.app.of(RUN) == []  # its message may be on its way, its lease about to be renewed
    clock.now += 6
    rig.caretaker.look()
    assert rig.app.of(RUN) == [lost.id, orphaned.id, cancelled.id]
    clock.now += 6
    rig.caretaker.look()
    assert len(rig.app.of(RUN)) == 3  # another has just been told


def test_one_that_moves_is_left_alone(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    job = store.add(TRAIN, JobState.RUNNING)
    for _ in range(5):
        rig.caretaker.look()
        clock.now += 3
        store.change(job.id, lambda job: job.model_copy(update={"warnings": (*job.warnings, "x")}))
    assert rig.app.of(RUN) == []


def test_a_worker_that_is_busy_or_does_not_listen_sends_nothing(store: MemoryStore, clock: Clock) -> None:
    busy, deaf = Rig(store), Rig(store, queues=("embed",))
    busy.slots.idle = False
    store.add(TRAIN)
    for rig in (busy, deaf):
        rig.caretaker.look()
        clock.now += 6
        rig.caretaker.look()
        assert rig.app.sent == []


def test_canaries_that_come_through_keep_it_alive(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    for _ in range(100):
        before = len(rig.app.sent)
        rig.caretaker.sing()
        if len(rig.app.sent) > before:
            rig.caretaker.hear()
        clock.now += 1
    assert len(rig.app.of(CANARY)) == 10
    assert {each["queue"] for each in rig.app.sent} == {canary_queue(NAME)}
    assert not rig.given_up


def test_one_that_never_comes_ends_an_idle_worker_within_a_minute(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    for _ in range(60):
        rig.caretaker.sing()
        clock.now += 1
    assert rig.given_up


def test_a_busy_worker_expects_none(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    rig.caretaker.sing()
    rig.slots.idle = False
    for _ in range(600):
        clock.now += 1
        rig.caretaker.sing()
    rig.slots.idle = True
    rig.caretaker.sing()
    assert not rig.given_up


def test_redis_is_not_blamed_on_the_worker(store: MemoryStore, clock: Clock) -> None:
    rig = Rig(store)
    rig.caretaker.sing()
    store.away = True
    clock.now += 100
    rig.caretaker.do(rig.caretaker.sing)
    store.away = False
    rig.caretaker.do(rig.caretaker.sing)
    assert not rig.given_up
    assert len(rig.app.of(CANARY)) == 2
