# SPDX-License-Identifier: Apache-2.0
"""Watch of one job and its log for a page."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from blemish.v1.job_pb2 import Job
from blemish_client.aio import AsyncClient
from blemish_client.errors import BlemishError, Unavailable

_RETRY_S = 3.0


class JobWatch:
    """The latest state of a job, and the log lines that a page has not taken yet.

    A server that is away is asked again until the watch stops.
    """

    def __init__(
        self,
        open_client: Callable[[], AsyncClient],
        job: Job,
        max_lines: int,
        retry_s: float = _RETRY_S,
    ) -> None:
        """Prepare the watch of ``job``.

        Args:
            open_client: returns a client, which the watch closes.
            job: job as it is known.
            max_lines: most log lines to keep until they are taken.
            retry_s: pause before a server that is away is asked again, in seconds.
        """
        self.failure: BlemishError | None = None
        """Error that ended the watch."""
        self._open_client = open_client
        self._retry_s = retry_s
        self._job = job
        self._has_changed = False
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._last_line = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to watch, in a task of the running loop."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop to watch."""
        if self._task is not None:
            self._task.cancel()

    def take_job(self) -> Job | None:
        """Return the job if it changed since the last call, else None."""
        if not self._has_changed:
            return None
        self._has_changed = False
        return self._job

    def take_lines(self) -> list[str]:
        """Return the log lines since the last call, the oldest first."""
        lines = list(self._lines)
        self._lines.clear()
        return lines

    async def _run(self) -> None:
        try:
            async with self._open_client() as client, asyncio.TaskGroup() as group:
                group.create_task(self._until_ended(self._follow_job, client))
                group.create_task(self._until_ended(self._follow_log, client))
        except* BlemishError as errors:
            self.failure = _first(errors)

    async def _until_ended(
        self, follow: Callable[[AsyncClient], Awaitable[None]], client: AsyncClient
    ) -> None:
        while True:
            try:
                await follow(client)
                return
            except Unavailable:
                await asyncio.sleep(self._retry_s)

    async def _follow_job(self, client: AsyncClient) -> None:
        async for job in client.watch(self._job.name):
            self._job = job
            self._has_changed = True

    async def _follow_log(self, client: AsyncClient) -> None:
        async for line in client.log(self._job.name, after=self._last_line):
            self._last_line = line.id
            self._lines.append(line.text)


def _first(errors: BaseExceptionGroup[BlemishError]) -> BlemishError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
