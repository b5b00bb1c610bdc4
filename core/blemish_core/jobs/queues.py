# SPDX-License-Identifier: Apache-2.0
"""What server and workers must agree on to tell each other of jobs through Celery."""

from collections.abc import Mapping
from typing import Any

from blemish_core.jobs.record import Job, JobPriority

RUN = "blemish.run_job"
"""What workers listen for; its one argument is the job's id."""

HELP = "blemish.help_job"
"""Asks a worker to take parts of a job that another one sees through; its one argument is the job's id."""

CANARY = "blemish.canary"
"""What a worker sends to itself: while it comes through, so does work."""

QUEUES: Mapping[str, str] = {"train": "train", "embed": "embed", "evaluate": "embed"}
"""The queue of each kind of job: bulk work never waits behind a training that another worker could do."""

_PRIORITIES = {JobPriority.HIGH: 0, JobPriority.NORMAL: 3, JobPriority.LOW: 6}
"""On Redis, Celery takes the lowest first; these are three of its four steps."""


def celery_message(job: Job, task: str = RUN) -> dict[str, Any]:
    """The arguments of Celery's ``send_task``."""
    return {
        "name": task,
        "args": [job.id],
        "queue": QUEUES[job.spec.kind],
        "priority": _PRIORITIES[job.priority],
        "retry": False,
    }


def queue_order(job: Job) -> tuple[int, float]:
    """Sorts the jobs of one queue in the order in which they are taken."""
    return _PRIORITIES[job.priority], job.created.timestamp()
