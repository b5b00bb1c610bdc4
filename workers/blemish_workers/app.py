# SPDX-License-Identifier: Apache-2.0
"""The Celery application: how jobs reach a worker, and what happens to them when one dies."""

from celery import Celery

from blemish_core.settings import read
from blemish_workers.settings import WorkerSettings

settings = read(WorkerSettings, "blemish-worker")
app = Celery("blemish", broker=settings.redis_url, include=["blemish_workers.tasks"])
app.conf.update(
    task_ignore_result=True,  # the job's record is the result
    task_acks_late=True,  # delivered again if this worker dies
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,  # a long job keeps no other from a free worker
    worker_hijack_root_logger=False,
    worker_proc_alive_timeout=120,  # a child loads torch before it reports
    # True would drop running jobs for good when Redis goes away.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        # What a dead worker held is delivered again after this; a lease keeps a slow one's job its own.
        "visibility_timeout": 60,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    },
)
