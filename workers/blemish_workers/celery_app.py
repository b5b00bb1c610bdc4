# SPDX-License-Identifier: Apache-2.0
"""The Celery application: how jobs reach a worker."""

from celery import Celery

from blemish_core.settings import read_settings
from blemish_workers.settings import WorkerSettings

settings = read_settings(WorkerSettings, "blemish-worker")
app = Celery("blemish", broker=settings.redis_url, include=["blemish_workers.tasks"])
app.conf.update(
    task_ignore_result=True,  # the job's record is the result
    # A task of ours watches over a child process; it neither computes nor forks.
    worker_pool="threads",
    worker_concurrency=len(settings.slots),
    task_acks_late=True,  # with this, no more are fetched than there are free slots
    worker_prefetch_multiplier=1,  # a long job keeps no other from a free worker
    worker_hijack_root_logger=False,
    # True would drop running jobs for good when Redis goes away.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        # Messages only say that there is work; the jobs' records say which. One that a dead worker held may
        # come again when it likes: the caretakers see to its job long before.
        "visibility_timeout": 3600,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    },
)
