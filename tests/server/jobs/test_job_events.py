# SPDX-License-Identifier: Apache-2.0
import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from blemish_core.jobs.record import EmbedSpec, Job, JobState
from blemish_core.platform.errors import ServerStopping
from blemish_server.jobs.job_events import JobEvents


class Store:
    """Stands for Redis: has one job, which runs on and on."""

    def get(self, id: str) -> Job:
        spec = EmbedSpec(model="models/m/versions/1", dataset="d")
        return Job(id=id, spec=spec, state=JobState.RUNNING, created=datetime.now(UTC))


async def test_a_watcher_is_told_that_the_server_ends() -> None:
    store: Any = Store()
    feed = JobEvents(store, "redis://127.0.0.1:1/0")
    watch = feed.watch("one")
    assert (await anext(watch)).job.name == "jobs/one"
    feed.end()
    async with asyncio.timeout(5):
        with pytest.raises(ServerStopping):
            await anext(watch)
    await feed.close()
