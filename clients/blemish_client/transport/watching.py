# SPDX-License-Identifier: Apache-2.0
"""Watching a job until it ends, across lost connections and server restarts."""

import time
from collections.abc import Callable, Iterator

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
from blemish_client.transport.connection import Connection

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
    last = after
    request = WatchJobRequest(name=name, log=True)

    def next_request() -> WatchJobRequest:
        request.after_line = last
        return request

    for answer in _answers(connection, next_request):
        for line in answer.lines:
            last = line.id
            yield line


def _answers(
    connection: Connection, next_request: Callable[[], WatchJobRequest]
) -> Iterator[WatchJobResponse]:
    """Yield the answers until the job has ended, with a new request after each lost connection."""
    jobs = JobServiceStub(connection.channel)
    policy = connection.retry_policy
    time_for_retries_s = policy.call_s
    retries_end: float | None = None
    pauses_s = policy.pauses_s()
    ended = False
    while True:
        failure: BlemishError | None = None
        pause_s = 0.0
        try:
            for answer in connection.stream(jobs.WatchJob, next_request(), _RENEW_AFTER_S):
                pauses_s = policy.pauses_s()
                ended = ended or answer.job.state in _ENDED
                time_for_retries_s, retries_end = policy.watch_s, None
                yield answer
            if ended:
                return
        except DeadlineExceeded as error:
            failure = error
        except Unavailable as error:
            failure, pause_s = error, error.retry_after_s or 0.0
        # Older servers end their streams with OK before the job has ended: ask again.
        pause_s = max(pause_s, next(pauses_s))
        if failure is not None:
            # Count from the first failure. A job may not have changed for hours before it.
            retries_end = retries_end or time.monotonic() + time_for_retries_s
            if time.monotonic() + pause_s > retries_end:
                raise failure
        time.sleep(pause_s)
