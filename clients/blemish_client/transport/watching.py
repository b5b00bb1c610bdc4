# SPDX-License-Identifier: Apache-2.0
"""Watching a job to its end, through a server that goes away and comes back."""

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
# Bounds how long a connection that died without a word can look like a job without news.
_RENEW_AFTER_S = 300.0


def has_ended(job: Job) -> bool:
    return job.state in _ENDED


def watch(connection: Connection, name: str) -> Iterator[Job]:
    """Yield the job as it is, then at every change, until it has ended.

    A cut stream is taken up again: no change comes twice, those in between are joined.

    Raises:
        Unavailable: if nobody answers for longer than patience lasts.
        BlemishError: whatever else went wrong.
    """
    seen = Job()
    for answer in _answers(connection, lambda: WatchJobRequest(name=name)):
        if answer.HasField("job") and answer.job.revision > seen.revision:
            seen = answer.job
            yield seen


def log(connection: Connection, name: str, after: str) -> Iterator[LogLine]:
    """Yield the lines that the job's process has written, then what it writes, until the job has ended.

    A cut stream is taken up again after the last line that came.

    Raises:
        As ``watch``.
    """
    last = after
    request = WatchJobRequest(name=name, log=True)

    def ask() -> WatchJobRequest:
        request.after_line = last
        return request

    for answer in _answers(connection, ask):
        for line in answer.lines:
            last = line.id
            yield line


def _answers(connection: Connection, ask: Callable[[], WatchJobRequest]) -> Iterator[WatchJobResponse]:
    """Yield what the server says until the job has ended, asking again where a stream was cut."""
    jobs = JobServiceStub(connection.channel)
    patience = connection.patience
    give_up = time.monotonic() + patience.call_s
    pauses_s = patience.pauses_s()
    ended = False
    while True:
        cut: BlemishError | None = None
        pause_s = 0.0
        try:
            for answer in connection.stream(jobs.WatchJob, ask(), _RENEW_AFTER_S):
                pauses_s = patience.pauses_s()
                ended = ended or has_ended(answer.job)
                yield answer
                # The reader's own time is not the server's silence.
                give_up = time.monotonic() + patience.watch_s
            if ended:
                return
        except DeadlineExceeded as error:
            cut = error
        except Unavailable as error:
            cut, pause_s = error, error.retry_after_s or 0.0
        # Servers of before ended their streams in good order, before the job had ended.
        pause_s = max(pause_s, next(pauses_s))
        if cut is not None and time.monotonic() + pause_s > give_up:
            raise cut
        time.sleep(pause_s)
