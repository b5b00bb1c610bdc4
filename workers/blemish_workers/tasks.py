# SPDX-License-Identifier: Apache-2.0
"""The one task: a job's id comes in, its record is the outcome."""

from functools import cache
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.signals import worker_process_init

from blemish_core.errors import Unavailable
from blemish_core.jobs.attempt import LeaseHeld
from blemish_core.jobs.queues import TASK
from blemish_core.jobs.store import JobStore
from blemish_workers.app import app, settings

if TYPE_CHECKING:
    from blemish_core.jobs.work import Workplace


@app.task(
    name=TASK,
    bind=True,
    max_retries=None,
    autoretry_for=(LeaseHeld, Unavailable),
    default_retry_delay=5,
)
def run(self: "Task[Any, Any]", job_id: str) -> None:
    """Work on a job; nothing happens if it has ended."""
    from blemish_core.jobs.run import run_job

    run_job(_store(), _place(), job_id)


@worker_process_init.connect
def _get_ready(**_: object) -> None:
    """Load torch in the child before its first job; the parent must not, it would fork CUDA."""
    _place()


@cache
def _store() -> JobStore:
    return JobStore.connect(settings.redis_url)


@cache
def _place() -> "Workplace":
    from blemish_core.datasets import DatasetStore
    from blemish_core.index import SearchIndex
    from blemish_core.jobs.work import Workplace
    from blemish_core.models import ModelStore
    from blemish_core.settings import chosen_device

    return Workplace(
        datasets=DatasetStore(settings.datasets, settings.image_limits),
        models=ModelStore(settings.models),
        index=SearchIndex.connect(settings.qdrant_url, settings.qdrant_grpc_port),
        weights=settings.weights,
        limits=settings.image_limits,
        device=chosen_device(settings.device),
        runtime=settings.runtime_choice,
        max_feature_bytes=settings.max_feature_bytes,
        scratch=settings.scratch or settings.store / "scratch",
        max_scratch_bytes=settings.max_scratch_bytes,
        checkpoints=settings.checkpoints,
        photographs=settings.photographs,
    )
