# SPDX-License-Identifier: Apache-2.0
"""The parts of a worker, put together once a process."""

import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

from blemish_core.datasets import DatasetStore
from blemish_core.jobs.queues import HELP, celery_message
from blemish_core.jobs.record import Job, Limits
from blemish_core.jobs.retention import Retention
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.models.store import ModelStore
from blemish_core.search.frame_store import FrameStore
from blemish_workers.celery_app import app, settings
from blemish_workers.maintenance import Maintenance
from blemish_workers.runner.job_runner import JobRunner
from blemish_workers.runner.premises import WorkerStores
from blemish_workers.runner.slots import Slots

if TYPE_CHECKING:
    from blemish_core.search.search_index import SearchIndex

_MOST_HELPERS = 64

_LAST_WORDS_S = 5.0
GAVE_UP = 75
"""The exit code of a worker to which no work comes through."""

NAME = f"{socket.gethostname()}:{os.getpid()}"
"""Of this worker."""


@dataclass(frozen=True)
class House:
    slots: Slots
    foreman: JobRunner
    caretaker: Maintenance


@cache
def house() -> House:
    store, staff = JobStore.connect(settings.redis_url), WorkerRegistry.connect(settings.redis_url)
    models = ModelStore(settings.models)
    premises = WorkerStores(
        datasets=DatasetStore(settings.datasets, settings.image_limits),
        frames=FrameStore(settings.frames),
        models=models,
        checkpoints=settings.checkpoints,
        connect_index=_index,
    )
    slots = Slots(settings.slots)

    def call_helpers(job: Job, at_most: int) -> None:
        there = sum(len(worker.devices) for worker in staff.workers() if "embed" in worker.queues)
        for _ in range(min(at_most, there - 1, _MOST_HELPERS)):
            app.send_task(**celery_message(job, HELP))

    retention = Retention(
        store,
        models,
        settings.checkpoints,
        lambda ref: _index().drop(ref),
        lambda ref: _index().serving_version(ref.model) == ref,
        timedelta(days=settings.keep_jobs_days),
        settings.keep_versions,
    )
    limits = Limits(max_seconds=settings.max_job_seconds, max_bytes=settings.max_job_bytes)
    foreman = JobRunner(store, premises, NAME, limits, _send, call_helpers)
    caretaker = Maintenance(
        NAME,
        tuple(settings.queues.split(",")),
        app,
        store,
        staff,
        slots,
        foreman,
        retention.sweep,
        partial(_give_up, slots),
    )
    return House(slots, foreman, caretaker)


def _give_up(slots: Slots) -> None:
    """End this process so that whoever supervises it starts another, once its jobs are handed back."""
    give_up = time.monotonic() + _LAST_WORDS_S
    while slots.jobs() and time.monotonic() < give_up:
        time.sleep(0.1)
    os._exit(GAVE_UP)  # Celery's own way out goes through what is stuck


def _send(job: Job) -> None:
    app.send_task(**celery_message(job))


@cache
def _index() -> "SearchIndex":
    from blemish_core.search.search_index import (
        SearchIndex,  # takes half a second, and most workers never need it
    )

    return SearchIndex.connect(settings.qdrant_url, settings.qdrant_grpc_port, settings.qdrant_api_key)
