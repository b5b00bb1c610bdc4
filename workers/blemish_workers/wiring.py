# SPDX-License-Identifier: Apache-2.0
"""The composition root of the worker process."""

import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog
from celery import Celery

from blemish_core.jobs.context import JobContext
from blemish_core.jobs.queues import HELP_TASK, celery_message
from blemish_core.jobs.record import Job, Limits
from blemish_core.jobs.retention import Retention
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.training_rates import StoredRates
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.platform.errors import FailedPrecondition, Unavailable
from blemish_core.platform.redis_check import RedisCheck
from blemish_workers.maintenance import Maintenance
from blemish_workers.runner.context import make_job_context
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.slots import Slots
from blemish_workers.settings import WorkerSettings

EXIT_UNREACHABLE = 75
"""Exit code of a worker that no longer receives tasks."""

_MAX_HELPERS = 64
_REQUEUE_TIMEOUT_S = 5.0
_READY_CHECK_EVERY_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Worker:
    """The parts of a worker process."""

    name: str
    """Process, ``host:pid``."""
    slots: Slots
    runner: JobRunner
    maintenance: Maintenance
    redis: RedisCheck

    def report_ready(self, ready_file: Path | None) -> None:
        """Check Redis until it can be used, in a thread of its own, and write the file then.

        Celery's connection, which exists by then, is another one.
        """

        def check() -> None:
            while True:
                try:
                    self.redis.ping()
                    if ready_file is not None:
                        ready_file.touch()  # without content, for which a full disk has no space
                except (Unavailable, FailedPrecondition, OSError) as error:
                    log.warning("not ready yet", reason=str(error))
                    time.sleep(_READY_CHECK_EVERY_S)
                    continue
                for warning in self.redis.warnings:
                    log.warning("dependency endangers data", name="redis", detail=warning)
                return

        threading.Thread(target=check, name="readiness", daemon=True).start()


def build_worker(settings: WorkerSettings, app: Celery) -> Worker:
    """Build a worker that sends tasks through ``app``; nothing starts or connects yet."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    store = JobStore.connect(settings.redis_url)
    registry = WorkerRegistry.connect(settings.redis_url)
    context = make_job_context(settings, settings.device)
    slots = Slots(settings.slots)

    def send(job: Job) -> None:
        app.send_task(**celery_message(job))

    def request_helpers(job: Job, at_most: int) -> None:
        available = sum(len(worker.devices) for worker in registry.workers() if "embed" in worker.queues)
        for _ in range(min(at_most, available - 1, _MAX_HELPERS)):
            app.send_task(**celery_message(job, HELP_TASK))

    limits = Limits(max_seconds=settings.max_job_seconds, max_bytes=settings.max_job_bytes)
    runner = JobRunner(store, context, name, limits, send, request_helpers)
    maintenance = Maintenance(
        name=name,
        queues=tuple(settings.queues.split(",")),
        app=app,
        store=store,
        registry=registry,
        slots=slots,
        runner=runner,
        rates=StoredRates(context.rates, context.runtime.name),
        apply_retention=_retention(settings, store, context).sweep,
        exit_process=partial(_exit_process, slots),
    )
    return Worker(name, slots, runner, maintenance, RedisCheck.connect(settings.redis_url))


def _retention(settings: WorkerSettings, store: JobStore, context: JobContext) -> Retention:
    return Retention(
        store,
        context.models,
        context.checkpoints,
        drop_index=lambda ref: context.index.drop(ref),
        serves_searches=lambda ref: context.index.serving_version(ref.model) == ref,
        keep_jobs=timedelta(days=settings.keep_jobs_days),
        keep_versions=settings.keep_versions,
    )


def _exit_process(slots: Slots) -> None:
    """Exit once the running jobs are requeued, so that the process supervisor starts a new worker."""
    deadline = time.monotonic() + _REQUEUE_TIMEOUT_S
    while slots.jobs() and time.monotonic() < deadline:
        time.sleep(0.1)
    os._exit(EXIT_UNREACHABLE)  # a regular exit would wait for the consumer that hangs
