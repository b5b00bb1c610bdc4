# SPDX-License-Identifier: Apache-2.0
"""The watch of a job without sockets: what it keeps, and how it goes on after failures."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import grpc

from blemish.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job, LogLine
from blemish_client.aio import AsyncClient
from blemish_client.errors import BlemishError, NotFound, Unavailable
from blemish_console.data.job_watch import JobWatch

JOB = Job(name="jobs/1")
RUNNING = Job(name="jobs/1", state=JOB_STATE_RUNNING, revision=1)
ENDED = Job(name="jobs/1", state=JOB_STATE_SUCCEEDED, revision=2)
UNAVAILABLE = Unavailable("away", code=grpc.StatusCode.UNAVAILABLE)


@dataclass
class Scripted:
    """A server that sends these jobs and lines, then fails or waits."""

    jobs: list[Job] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    failures: list[BlemishError] = field(default_factory=list)
    """Errors of the next watches of the job."""
    log_failures: list[BlemishError] = field(default_factory=list)
    """Errors of the next watches of the log, after their lines."""
    is_endless: bool = False
    asked_after: list[str] = field(default_factory=list)
    watching: int = 0
    clients: list["FakeClient"] = field(default_factory=list)

    def open(self) -> AsyncClient:
        self.clients.append(FakeClient(self))
        return self.clients[-1]


def watch_of(server: Scripted, max_lines: int = 10) -> JobWatch:
    return JobWatch(server.open, JOB, max_lines, retry_s=0.001)


class FakeClient(AsyncClient):
    """A client of such a server."""

    def __init__(self, server: Scripted) -> None:
        super().__init__("127.0.0.1:1")
        self._script = server
        self.is_closed = False

    async def watch(self, job: Job | str) -> AsyncGenerator[Job]:
        self._script.watching += 1
        try:
            if self._script.failures:
                raise self._script.failures.pop(0)
            for each in self._script.jobs:
                yield each
            if self._script.is_endless:
                await asyncio.Event().wait()
        finally:
            self._script.watching -= 1

    async def log(self, job: Job | str, *, after: str = "") -> AsyncGenerator[LogLine]:
        self._script.asked_after.append(after)
        for line in self._script.lines:
            if line.id > after:
                yield line
        if self._script.log_failures:
            raise self._script.log_failures.pop(0)

    async def close(self) -> None:
        self.is_closed = True
        await super().close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def lines(*numbers: int) -> list[LogLine]:
    return [LogLine(id=str(number), text=f"line {number}") for number in numbers]


async def test_latest_job_and_all_lines_are_taken_once() -> None:
    server = Scripted([RUNNING, ENDED], lines(1, 2))
    watch = watch_of(server)
    assert watch.take_job() is None
    watch.start()
    await until(lambda: bool(server.clients) and server.clients[0].is_closed)
    assert watch.take_job() == ENDED
    assert watch.take_job() is None
    assert watch.take_lines() == ["line 1", "line 2"]
    assert watch.take_lines() == []
    assert watch.failure is None


async def test_lines_that_no_page_takes_are_bounded() -> None:
    server = Scripted([ENDED], lines(*range(1, 10)))
    watch = watch_of(server, 3)
    watch.start()
    await until(lambda: bool(server.clients) and server.clients[0].is_closed)
    assert watch.take_lines() == ["line 7", "line 8", "line 9"]


async def test_watch_goes_on_where_it_was_after_the_server_was_away() -> None:
    server = Scripted([ENDED], lines(1, 2), failures=[UNAVAILABLE] * 3, log_failures=[UNAVAILABLE])
    watch = watch_of(server)
    watch.start()
    await until(lambda: bool(server.clients) and server.clients[0].is_closed)
    assert watch.take_job() == ENDED
    assert watch.take_lines() == ["line 1", "line 2"]
    assert server.asked_after == ["", "2"]
    assert watch.failure is None


async def test_other_failure_ends_the_watch_and_is_kept() -> None:
    deleted = NotFound("it was deleted", code=grpc.StatusCode.NOT_FOUND)
    server = Scripted(failures=[deleted])
    watch = watch_of(server)
    watch.start()
    await until(lambda: watch.failure is not None)
    assert watch.failure == deleted
    assert server.clients[0].is_closed


async def test_stop_ends_the_call_and_closes_the_client() -> None:
    server = Scripted([RUNNING], is_endless=True)
    watch = watch_of(server)
    watch.start()
    await until(lambda: server.watching == 1)
    watch.stop()
    await until(lambda: server.clients[0].is_closed)
    assert server.watching == 0


async def test_stop_before_the_start_does_nothing() -> None:
    server = Scripted()
    watch = watch_of(server)
    watch.stop()
    assert server.clients == []
