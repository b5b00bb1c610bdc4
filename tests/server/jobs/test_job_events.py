# SPDX-License-Identifier: Apache-2.0
import asyncio
from datetime import UTC, datetime

import pytest

from blemish_core.jobs.record import EmbedSpec, Job, JobState
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import InvalidRequest, ServerStopping
from blemish_server.jobs.job_events import JobEvents

NOWHERE = "redis://127.0.0.1:1/0"


class RunningJobStore(JobStore):
    """A store with one job, which runs forever."""

    def get(self, id: str) -> Job:
        spec = EmbedSpec(model="models/m/versions/1", dataset="d")
        return Job(id=id, spec=spec, state=JobState.RUNNING, created=datetime.now(UTC))


@pytest.fixture
def store() -> JobStore:
    return RunningJobStore.connect(NOWHERE)


async def test_watch_ends_when_the_server_stops(store: JobStore) -> None:
    events = JobEvents(store, NOWHERE)
    watch = events.watch("one")
    assert (await anext(watch)).job.name == "jobs/one"
    events.stop()
    async with asyncio.timeout(5):
        with pytest.raises(ServerStopping):
            await anext(watch)
    await events.close()


async def test_malformed_line_id_is_rejected(store: JobStore) -> None:
    events = JobEvents(store, NOWHERE)
    with pytest.raises(InvalidRequest, match="'x' is not the id of a log line"):
        await anext(events.watch("one", after_line="x"))
    await events.close()
