# SPDX-License-Identifier: Apache-2.0
"""Dispatch of job ids to the workers through Celery."""

from celery import Celery
from kombu.exceptions import OperationalError

from blemish_core.jobs.queues import celery_message
from blemish_core.jobs.record import Job
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.redis_address import RedisAddress


class Dispatcher:
    """A client of the Celery broker that queues jobs."""

    def __init__(self, redis_url: str) -> None:
        broker = RedisAddress.parse(redis_url)
        self._celery = Celery("blemish", set_as_current=False)
        self._celery.conf.update(
            broker.celery_settings(socket_connect_timeout=2, socket_timeout=5),
            task_ignore_result=True,  # the job's record is the result
        )

    def send(self, job: Job) -> None:
        """Queue a job. A job that is queued twice runs once.

        Raises:
            Unavailable: if Redis does not respond.
        """
        try:
            self._celery.send_task(**celery_message(job))
        except OperationalError as error:
            raise Unavailable(
                f"jobs/{job.id} was created, but Redis became unreachable before it was queued; an idle "
                "worker will find it, and a retry with the same request_id returns it",
                dependency="redis",
            ) from error

    def ping(self) -> None:
        """Connect to the broker.

        Raises:
            Unavailable: if Redis does not respond.
        """
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        except OperationalError as error:
            raise Unavailable(
                f"Celery does not reach Redis: {error}; check REDIS_URL", dependency="redis"
            ) from error

    def close(self) -> None:
        self._celery.close()
