# SPDX-License-Identifier: Apache-2.0
"""Changes of jobs, for any number of watchers from one reader of Redis."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from blemish_core.jobs.record import Job
from blemish_core.jobs.store import CHANGES, JobStore

_RECHECK_S = 10.0

log = structlog.get_logger(__name__)


class JobFeed:
    def __init__(self, store: JobStore, redis_url: str) -> None:
        self._store = store
        self._redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            redis_url, socket_connect_timeout=2, socket_timeout=15
        )
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def watch(self, id: str) -> AsyncIterator[Job]:
        """Yield the job as it is, then after every change, until it has ended.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """
        changed = asyncio.Event()
        self._watchers[id].add(changed)
        try:
            revision = 0
            while True:
                changed.clear()
                job = await asyncio.to_thread(self._store.get, id)
                if job.revision != revision:
                    revision = job.revision
                    yield job
                if job.state.ended:
                    return
                # Looked at now and then in any case: a stream that Redis lost tells nothing.
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _RECHECK_S)
        finally:
            self._watchers[id].discard(changed)
            if not self._watchers[id]:
                del self._watchers[id]

    async def run(self) -> None:
        """Read the stream of changes until cancelled."""
        last = b""
        while True:
            try:
                last = last or await self._newest()
                answer: Any = await self._redis.xread({CHANGES: last}, block=5000, count=1000)
            except (RedisError, OSError):
                # What changed meanwhile is unknown: everybody looks again.
                last = b""
                self._wake(list(self._watchers))
                await asyncio.sleep(1)
                continue
            for _, entries in answer or ():
                last = entries[-1][0]
                self._wake([fields[b"job"].decode() for _, fields in entries])

    async def close(self) -> None:
        await self._redis.aclose()

    async def _newest(self) -> bytes:
        newest: Any = await self._redis.xrevrange(CHANGES, count=1)
        return bytes(newest[0][0]) if newest else b"0-0"

    def _wake(self, ids: list[str]) -> None:
        for id in ids:
            for changed in self._watchers.get(id, ()):
                changed.set()
