# SPDX-License-Identifier: Apache-2.0
"""The Celery application that carries job ids from the server to the workers."""

from celery import Celery

from blemish_core.platform.redis_address import RedisAddress
from blemish_workers.settings import WorkerSettings


def make_celery_app(settings: WorkerSettings) -> Celery:
    """Return the Celery application of a worker; the connection opens when the worker starts."""
    app = Celery("blemish")
    broker = RedisAddress.parse(settings.redis_url).celery_settings(
        # A message only signals work; the record decides. Maintenance requeues an orphaned job
        # long before Redis redelivers the message of a dead worker.
        visibility_timeout=3600,
        socket_connect_timeout=5,
        socket_keepalive=True,
    )
    app.conf.update(
        broker,
        task_ignore_result=True,  # the job's record holds the result
        # A task only supervises a child process, so threads are enough.
        worker_pool="threads",
        worker_concurrency=len(settings.slots),
        task_acks_late=True,  # limits the number of fetched tasks to the number of free slots
        worker_prefetch_multiplier=1,  # a worker with a long job must not hold back the next one
        worker_hijack_root_logger=False,
        # True would lose running jobs when the connection to Redis breaks.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis whose disk is full refuses commands. By default Celery then ends the worker.
        broker_channel_error_retry=True,
    )
    return app
