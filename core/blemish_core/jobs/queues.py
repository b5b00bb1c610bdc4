# SPDX-License-Identifier: Apache-2.0
"""The Celery task names, queues and priorities that server and workers share."""

from collections.abc import Mapping
from typing import Any

from blemish_core.jobs.record import Job, JobPriority

RUN_TASK = "blemish.run_job"
"""Task that runs a job; its argument is the job's id."""

HELP_TASK = "blemish.help_job"
"""Task that runs free shards of a job that another worker runs; its argument is the job's id."""

CANARY_TASK = "blemish.canary"
"""Task that a worker sends to itself, as a check that it receives tasks."""

QUEUES: Mapping[str, str] = {"train": "train", "embed": "embed", "evaluate": "embed"}
"""Queue of each kind of job; trainings have their own, so that they do not delay bulk work."""

_PRIORITIES = {JobPriority.HIGH: 0, JobPriority.NORMAL: 3, JobPriority.LOW: 6}
"""Celery's priorities on Redis: the lowest number runs first, and 9 is the fourth step."""


def celery_message(job: Job, task: str = RUN_TASK) -> dict[str, Any]:
    """Return the arguments of Celery's ``send_task`` for a job."""
    return {
        "name": task,
        "args": [job.id],
        "queue": QUEUES[job.spec.kind],
        "priority": _PRIORITIES[job.priority],
        "retry": False,
    }


def queue_order(job: Job) -> tuple[int, float]:
    """Return the key that sorts the jobs of a queue in the order of their execution."""
    return _PRIORITIES[job.priority], job.created.timestamp()
