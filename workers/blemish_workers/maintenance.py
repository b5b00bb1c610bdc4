# SPDX-License-Identifier: Apache-2.0
"""Worker maintenance: heartbeat, broker liveness check, re-dispatch of orphaned jobs, retention.

Celery's messages can be lost if a worker dies right after it fetched one. They can be late, because Redis
redelivers the message of a dead worker after an hour. They can also remain unfetched: a worker may stop
consuming after a restart of Redis (celery issue 8030). The jobs' records are the source of truth, so idle
workers compare both.
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

from blemish_core.jobs.queues import CANARY_TASK, QUEUES, celery_message
from blemish_core.jobs.record import Job, now
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.training_rates import StoredRates
from blemish_core.jobs.worker_registry import WorkerInfo, WorkerRegistry
from blemish_core.platform.errors import Unavailable
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.slots import Slots

_TICK_S = 1.0
_HEARTBEAT_EVERY_S = 3.0
_ORPHANS_EVERY_S = 3.0
_RETENTION_EVERY_S = 60.0
_CANARY_EVERY_S = 10.0
_CANARY_TIMEOUT_S = 45.0
_ORPHANED_AFTER_S = 5.0
_SEND_AGAIN_AFTER_S = 15.0

log = structlog.get_logger(__name__)


def canary_queue(worker: str) -> str:
    """Return the name of the queue that only this worker consumes."""
    return f"canary.{worker}"


class Maintenance:
    """The periodic tasks of a worker.

    Args:
        name: the worker, ``host:pid``.
        queues: queues that it consumes.
        app: Celery application for sending tasks.
        store: the job records.
        registry: the registry of workers.
        slots: the worker's slots.
        runner: the worker's job runner, stopped before the process exits.
        rates: the measured speed of the worker's devices.
        apply_retention: deletes what has expired.
        exit_process: exits this process, so that its supervisor starts a new worker.
    """

    def __init__(
        self,
        *,
        name: str,
        queues: tuple[str, ...],
        app: Celery,
        store: JobStore,
        registry: WorkerRegistry,
        slots: Slots,
        runner: JobRunner,
        rates: StoredRates,
        apply_retention: Callable[[], None],
        exit_process: Callable[[], None],
    ) -> None:
        self._name = name
        self._queues = queues
        self._app = app
        self._store = store
        self._registry = registry
        self._slots = slots
        self._runner = runner
        self._rates = rates
        self._apply_retention = apply_retention
        self._exit_process = exit_process
        self._started = now()
        self._canary_received: datetime | None = None
        self._canary = _CanaryTimer()
        self._orphans: dict[str, tuple[int, float]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the periodic tasks in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the periodic tasks and remove this worker from the registry."""
        self._stopped.set()
        self._thread.join()
        with suppress(Unavailable, OperationalError, RedisError):
            self._registry.remove(self._name)
            self._delete_canary_queue(self._name)

    def receive_canary(self) -> None:
        """Note that a canary task has arrived."""
        self._canary_received = now()
        self._canary.mark_received()

    def send_heartbeat(self) -> None:
        """Refresh this worker's entry in the registry and clean up after expired workers."""
        devices = self._slots.devices
        expired = self._registry.heartbeat(
            WorkerInfo(
                name=self._name,
                version=version("blemish"),
                queues=self._queues,
                devices=devices,
                jobs=self._slots.jobs(),
                started=self._started,
                canary=self._canary_received,
                rates=self._rates.of(devices),
            )
        )
        for name in expired:
            self._delete_canary_queue(name)

    def send_canary(self) -> None:
        """Send a canary if a slot is free to receive it; exit the process if the last one is overdue."""
        if not self._slots.has_free:
            self._canary.reset()
            return
        if self._canary.pending_s() > _CANARY_TIMEOUT_S:
            self._store.ping()  # raises if Redis is down, which explains the missing canary
            log.critical("broker liveness check failed, exiting", timeout_s=_CANARY_TIMEOUT_S)
            self._runner.stop()
            self._exit_process()
        elif self._canary.is_due():
            self._canary.mark_sent()
            self._app.send_task(CANARY_TASK, queue=canary_queue(self._name), priority=0, retry=False)

    def requeue_orphans(self) -> None:
        """Send unfinished jobs to the queue again if no worker holds their lease."""
        if not self._slots.has_free:
            self._orphans.clear()
            return
        jobs = [job for job in self._store.unfinished() if QUEUES[job.spec.kind] in self._queues]
        leased = self._store.are_leased([job.id for job in jobs])
        unleased = [job for job, held in zip(jobs, leased, strict=True) if not held]
        # Wait until a job has been unleased for a while: its message may be in flight, and a suspended
        # worker may be about to renew its lease.
        seen = {job.id: self._first_seen(job) for job in unleased}
        self._orphans = seen
        for job in unleased:
            if time.monotonic() - seen[job.id][1] < _ORPHANED_AFTER_S:
                continue
            if self._store.claim(f"send:{job.id}", _SEND_AGAIN_AFTER_S):
                log.warning("orphaned job requeued", job=job.id, state=job.state)
                self._app.send_task(**celery_message(job))

    def attempt(self, task: Callable[[], None]) -> None:
        """Run a periodic task; log an error, so that the other tasks continue."""
        try:
            task()
        except (Unavailable, OperationalError, RedisError) as error:
            self._canary.reset()  # Redis may have lost the pending canary
            log.warning("maintenance task failed", error=str(error))
        except Exception:
            log.exception("maintenance task failed")

    def _run(self) -> None:
        every_s: dict[Callable[[], None], float] = {
            self.send_heartbeat: _HEARTBEAT_EVERY_S,
            self.send_canary: _TICK_S,
            self.requeue_orphans: _ORPHANS_EVERY_S,
            self._apply_retention: _RETENTION_EVERY_S,
        }
        due_s = dict.fromkeys(every_s, 0.0)
        while not self._stopped.wait(_TICK_S):
            for task in every_s:
                if time.monotonic() >= due_s[task]:
                    due_s[task] = time.monotonic() + every_s[task]
                    self.attempt(task)

    def _delete_canary_queue(self, name: str) -> None:
        """Delete a worker's canary queue, which may still hold a canary."""
        with self._app.connection_for_write() as connection:
            Queue(canary_queue(name))(connection.default_channel).delete()

    def _first_seen(self, job: Job) -> tuple[int, float]:
        """Return the revision of an orphan and the time since which it has not changed."""
        before = self._orphans.get(job.id)
        return before if before and before[0] == job.revision else (job.revision, time.monotonic())


class _CanaryTimer:
    """The send and receive times of canaries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent_s: float | None = None
        self._due_s = 0.0

    def is_due(self) -> bool:
        with self._lock:
            return self._sent_s is None and time.monotonic() >= self._due_s

    def mark_sent(self) -> None:
        with self._lock:
            self._sent_s = time.monotonic()

    def mark_received(self) -> None:
        with self._lock:
            self._sent_s, self._due_s = None, time.monotonic() + _CANARY_EVERY_S

    def reset(self) -> None:
        """Stop waiting for the pending canary, which may be lost or waiting for a slot."""
        with self._lock:
            self._sent_s = None

    def pending_s(self) -> float:
        """Return the time since the pending canary was sent; 0 if none is pending."""
        with self._lock:
            return 0.0 if self._sent_s is None else time.monotonic() - self._sent_s
