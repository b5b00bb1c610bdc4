# SPDX-License-Identifier: Apache-2.0
"""Looks after what no job does: others know of this worker, work comes through, none lies about.

Celery's messages may be lost (a worker dies between taking one and noting it), late (one that a dead worker
held comes again after an hour), or never fetched (a worker may stop consuming after Redis came back, celery
#8030). The jobs' records are the truth, so whoever is idle compares the two.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version

import structlog
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from blemish_core.jobs.queues import CANARY, QUEUES, celery_message
from blemish_core.jobs.record import Job, now
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import Worker, WorkerRegistry
from blemish_core.platform.errors import Unavailable
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.slots import Slots

_TICK_S = 1.0
_LOOK_EVERY_S = 3.0
_CANARY_EVERY_S = 10.0
_CANARY_DEAD_S = 45.0
_SEND_AGAIN_S = 15.0
_LYING_S = 5.0

log = structlog.get_logger(__name__)


def canary_queue(worker: str) -> str:
    """The queue that only this worker listens to."""
    return f"canary.{worker}"


class Maintenance:
    """Of the worker named ``name``. ``give_up`` ends the process so that its supervisor starts another."""

    def __init__(
        self,
        name: str,
        queues: tuple[str, ...],
        app: Celery,
        store: JobStore,
        staff: WorkerRegistry,
        slots: Slots,
        foreman: JobRunner,
        retire: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._name = name
        self._queues = queues
        self._app = app
        self._store = store
        self._staff = staff
        self._slots = slots
        self._foreman = foreman
        self._retire = retire
        self._give_up = give_up
        self._started = now()
        self._heard: datetime | None = None
        self._canary = _Canary()
        self._lying: dict[str, tuple[int, float]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, and say that this worker goes."""
        self._stopped.set()
        self._thread.join()
        with suppress(Unavailable, OperationalError, RedisError):
            self._staff.remove(self._name)
            self._forget(self._name)

    def hear(self) -> None:
        """A canary came through."""
        self._heard = now()
        self._canary.heard()

    def _run(self) -> None:
        due = dict.fromkeys((self._present, self.sing, self.look, self._retire), 0.0)
        every_s = {
            self._present: _LOOK_EVERY_S,
            self.sing: _TICK_S,
            self.look: _LOOK_EVERY_S,
            self._retire: 60.0,
        }
        while not self._stopped.wait(_TICK_S):
            for chore, at in due.items():
                if time.monotonic() < at:
                    continue
                due[chore] = time.monotonic() + every_s[chore]
                self.do(chore)

    def do(self, chore: Callable[[], None]) -> None:
        """Do something that must not end the others if it fails."""
        try:
            chore()
        except (Unavailable, OperationalError, RedisError) as error:
            self._canary.forget()  # it may have been lost with Redis
            log.warning("cannot look after things", error=str(error))
        except Exception:
            log.exception("cannot look after things")

    def _present(self) -> None:
        """Tell others of this worker, and forget those that are gone."""
        for gone in self._staff.heartbeat(
            Worker(
                name=self._name,
                version=version("blemish"),
                queues=self._queues,
                devices=self._slots.devices,
                jobs=self._slots.jobs(),
                started=self._started,
                canary=self._heard,
            )
        ):
            self._forget(gone)

    def _forget(self, name: str) -> None:
        """Remove the queue of a worker that is gone, with the canary that may wait in it."""
        with self._app.connection_for_write() as connection:
            Queue(canary_queue(name))(connection.default_channel).delete()

    def sing(self) -> None:
        """Send a canary while there is a free slot to take it; give up if it does not come."""
        if not self._slots.idle:
            self._canary.forget()
            return
        if self._canary.silent_s() > _CANARY_DEAD_S:
            self._store.ping()  # its silence would explain the canary's
            log.critical("no work comes through, ending to be started anew", silent_s=_CANARY_DEAD_S)
            self._foreman.stop()
            self._give_up()
        elif self._canary.due():
            self._canary.sent()
            self._app.send_task(CANARY, queue=canary_queue(self._name), priority=0, retry=False)

    def look(self) -> None:
        """Send again those jobs that nobody works on although this worker could."""
        if not self._slots.idle:
            self._lying.clear()
            return
        mine = [job for job in self._store.unfinished() if QUEUES[job.spec.kind] in self._queues]
        leased = self._store.are_leased([job.id for job in mine])
        lying = [job for job, held in zip(mine, leased, strict=True) if not held]
        # Only what has not moved since an earlier look: whoever slept through the end of its lease has time
        # to take it again, and a message its time to come.
        since = {job.id: self._since(job) for job in lying}
        self._lying = since
        for job in lying:
            if time.monotonic() - since[job.id][1] < _LYING_S:
                continue
            if self._store.claim(f"send:{job.id}", _SEND_AGAIN_S):
                log.warning("nobody works on it, sending it again", job=job.id, state=job.state)
                self._app.send_task(**celery_message(job))

    def _since(self, job: Job) -> tuple[int, float]:
        before = self._lying.get(job.id)
        return before if before and before[0] == job.revision else (job.revision, time.monotonic())


class _Canary:
    """When canaries were sent, and whether the last one has been heard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent_s: float | None = None
        self._due_s = 0.0

    def due(self) -> bool:
        with self._lock:
            return self._sent_s is None and time.monotonic() >= self._due_s

    def sent(self) -> None:
        with self._lock:
            self._sent_s = time.monotonic()

    def heard(self) -> None:
        with self._lock:
            self._sent_s, self._due_s = None, time.monotonic() + _CANARY_EVERY_S

    def forget(self) -> None:
        """Expect none: it may be lost, or wait for a slot."""
        with self._lock:
            self._sent_s = None

    def silent_s(self) -> float:
        """How long the last one has been on its way; 0 if none is."""
        with self._lock:
            return 0.0 if self._sent_s is None else time.monotonic() - self._sent_s
