# SPDX-License-Identifier: Apache-2.0
"""Watching a job until it ends, across lost connections and server restarts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

from blemish.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_SUCCEEDED,
    Job,
    LogLine,
    WatchJobRequest,
    WatchJobResponse,
)
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish_client.errors import BlemishError, DeadlineExceeded, Unavailable
from blemish_client.transport.connection import AsyncConnection, Connection
from blemish_client.transport.retry import RetryPolicy

_ENDED = frozenset({JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED})
# Some proxies answer pings for a server that is gone. Asking again regularly bounds that time.
_RENEW_AFTER_S = 300.0


def watch(connection: Connection, name: str) -> Iterator[Job]:
    """Yield the job as it is, then after every change, until it has ended.

    After a lost connection the watch resumes. No revision is yielded twice.

    Raises:
        Unavailable: if the server stays unreachable for longer than the retry policy allows.
        BlemishError: if the call fails for another reason.
    """
    seen = Job()
    for answer in _answers(connection, lambda: WatchJobRequest(name=name)):
        if answer.HasField("job") and answer.job.revision > seen.revision:
            seen = answer.job
            yield seen


def log(connection: Connection, name: str, after: str) -> Iterator[LogLine]:
    """Yield the log lines of a job, past and future, until the job has ended.

    After a lost connection the log resumes after the last line received.

    Raises:
        BlemishError: as for ``watch``.
    """
    request = WatchJobRequest(name=name, log=True, after_line=after)
    for answer in _answers(connection, lambda: request):
        for line in answer.lines:
            request.after_line = line.id
            yield line


async def watch_async(connection: AsyncConnection, name: str) -> AsyncGenerator[Job]:
    """Yield the job as ``watch`` does."""
    seen = Job()
    async with aclosing(_answers_async(connection, lambda: WatchJobRequest(name=name))) as answers:
        async for answer in answers:
            if answer.HasField("job") and answer.job.revision > seen.revision:
                seen = answer.job
                yield seen


async def log_async(connection: AsyncConnection, name: str, after: str) -> AsyncGenerator[LogLine]:
    """Yield the log lines of a job as ``log`` does."""
    request = WatchJobRequest(name=name, log=True, after_line=after)
    async with aclosing(_answers_async(connection, lambda: request)) as answers:
        async for answer in answers:
            for line in answer.lines:
                request.after_line = line.id
                yield line


class _Attempts:
    """The pauses between the calls of a watch, and the end of the retries."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.has_ended = False
        """True after an answer with the end of the job."""
        self._policy = policy
        self._time_for_retries_s = policy.call_s
        self._retries_end: float | None = None
        self._pauses_s = policy.pauses_s()

    def receive(self, answer: WatchJobResponse) -> None:
        self.has_ended = self.has_ended or answer.job.state in _ENDED
        self._pauses_s = self._policy.pauses_s()
        self._time_for_retries_s, self._retries_end = self._policy.watch_s, None

    def pause_s(self, failure: BlemishError | None) -> float:
        """Return the time until the next call; raise the failure if the time for retries has passed."""
        # Older servers end their streams with OK before the job has ended: ask again.
        pause_s = next(self._pauses_s)
        if failure is not None:
            pause_s = max(pause_s, failure.retry_after_s or 0.0)
            # Count from the first failure. A job may not have changed for hours before it.
            self._retries_end = self._retries_end or time.monotonic() + self._time_for_retries_s
            if time.monotonic() + pause_s > self._retries_end:
                raise failure
        return pause_s


def _answers(
    connection: Connection, next_request: Callable[[], WatchJobRequest]
) -> Iterator[WatchJobResponse]:
    """Yield the answers until the job has ended, with a new request after each lost connection."""
    jobs = JobServiceStub(connection.channel)
    attempts = _Attempts(connection.retry_policy)
    while True:
        failure: BlemishError | None = None
        try:
            for answer in connection.stream(jobs.WatchJob, next_request(), _RENEW_AFTER_S):
                attempts.receive(answer)
                yield answer
            if attempts.has_ended:
                return
        except (DeadlineExceeded, Unavailable) as error:
            failure = error
        time.sleep(attempts.pause_s(failure))


async def _answers_async(
    connection: AsyncConnection, next_request: Callable[[], WatchJobRequest]
) -> AsyncGenerator[WatchJobResponse]:
    """Yield the answers as ``_answers`` does."""
    jobs = JobServiceStub(connection.channel)
    attempts = _Attempts(connection.retry_policy)
    while True:
        failure: BlemishError | None = None
        try:
            stream = connection.stream(jobs.WatchJob, next_request(), _RENEW_AFTER_S)
            async with aclosing(stream) as answers:
                async for answer in answers:
                    attempts.receive(answer)
                    yield answer
            if attempts.has_ended:
                return
        except (DeadlineExceeded, Unavailable) as error:
            failure = error
        await asyncio.sleep(attempts.pause_s(failure))
