# SPDX-License-Identifier: Apache-2.0
"""Hands job ids to the workers through Celery."""

from celery import Celery
from kombu.exceptions import OperationalError

from blemish_core.jobs.queues import celery_message
from blemish_core.jobs.record import Job
from blemish_core.platform.errors import Unavailable


class Dispatcher:
    def __init__(self, redis_url: str) -> None:
        self._celery = Celery("blemish", broker=redis_url, set_as_current=False)
        self._celery.conf.update(
            task_ignore_result=True,  # the job's record is the result
            broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 5},
        )

    def send(self, job: Job) -> None:
        """Queue a job; twice does no harm.

        Raises:
            Unavailable: if Redis does not answer.
        """
        try:
            self._celery.send_task(**celery_message(job))
        except OperationalError as error:
            raise Unavailable(
                f"jobs/{job.id} is written but Redis went away before a worker was told; an idle one will "
                "find it, and the same request_id finds it again",
                dependency="redis",
            ) from error

    def close(self) -> None:
        self._celery.close()
