# SPDX-License-Identifier: Apache-2.0
"""What comes through Celery: a job's id; the job's record is the outcome."""

from blemish_core.jobs.queues import CANARY, HELP, RUN
from blemish_workers.app import app
from blemish_workers.house import house


@app.task(name=RUN)
def run(job_id: str) -> None:
    """See a job through; nothing happens if it has ended or somebody else is at it."""
    with house().slots.taken(job_id) as slot:
        house().foreman.see_through(job_id, slot)


@app.task(name=HELP)
def help_(job_id: str) -> None:
    """Take parts of a bulk job; nothing happens if there are none left."""
    with house().slots.taken(job_id) as slot:
        house().foreman.help(job_id, slot)


@app.task(name=CANARY)
def canary() -> None:
    """Note that work comes through."""
    house().caretaker.hear()
