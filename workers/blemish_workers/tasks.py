# SPDX-License-Identifier: Apache-2.0
"""The Celery tasks of a worker. Each carries a job's id; the result is in the job's record."""

from collections.abc import Callable

import structlog
from celery import Celery

from blemish_core.jobs.queues import CANARY_TASK, HELP_TASK, RUN_TASK
from blemish_core.platform.errors import Unavailable
from blemish_workers.runner.slots import Slot
from blemish_workers.wiring import Worker

log = structlog.get_logger(__name__)


def register_tasks(app: Celery, worker: Worker) -> None:
    """Register the tasks that ``worker`` executes with its Celery application."""

    @app.task(name=RUN_TASK)
    def run_job(job_id: str) -> None:
        on_free_slot(worker.runner.run, job_id)

    @app.task(name=HELP_TASK)
    def help_job(job_id: str) -> None:
        on_free_slot(worker.runner.run_free_shards, job_id)

    @app.task(name=CANARY_TASK)
    def receive_canary() -> None:
        worker.maintenance.receive_canary()

    def on_free_slot(run: Callable[[str, Slot], None], job_id: str) -> None:
        with worker.slots.acquire(job_id) as slot:
            try:
                run(job_id, slot)
            except Unavailable as error:
                # Maintenance of an idle worker finds the job once the dependency is back.
                log.warning("job abandoned", job=job_id, error=str(error))
