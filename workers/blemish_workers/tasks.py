# SPDX-License-Identifier: Apache-2.0
"""What comes through Celery: a job's id; the job's record is the outcome."""

from collections.abc import Callable

import structlog

from blemish_core.jobs.queues import CANARY, HELP, RUN
from blemish_core.platform.errors import Unavailable
from blemish_workers.celery_app import app
from blemish_workers.runner.slots import Slot
from blemish_workers.wiring import house

log = structlog.get_logger(__name__)


@app.task(name=RUN)
def run(job_id: str) -> None:
    """See a job through; nothing happens if it has ended or somebody else is at it."""
    _on_a_slot(house().foreman.see_through, job_id)


@app.task(name=HELP)
def help_(job_id: str) -> None:
    """Take parts of a bulk job; nothing happens if there are none left."""
    _on_a_slot(house().foreman.help, job_id)


@app.task(name=CANARY)
def canary() -> None:
    """Note that work comes through."""
    house().caretaker.hear()


def _on_a_slot(work: Callable[[str, Slot], None], job_id: str) -> None:
    with house().slots.taken(job_id) as slot:
        try:
            work(job_id, slot)
        except Unavailable as error:
            log.warning("let go, whoever is idle will find it", job=job_id, error=str(error))
