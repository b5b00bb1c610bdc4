# SPDX-License-Identifier: Apache-2.0
"""The page of trainings on a server in memory: its empty states, and the end of its watch."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from nicegui import ui
from nicegui.testing import User, user_simulation
from tests.support.console import FakeClient, FakeServer

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import JOB_STATE_RUNNING, Job, Train, Worker
from blemish.v1.model_pb2 import Model
from blemish_client.aio import AsyncClient
from blemish_client.client import Client
from blemish_console import texts
from blemish_console.pages import train
from blemish_console.session import SessionStore
from blemish_console.shell import View

RUNNING = Job(name="jobs/1", state=JOB_STATE_RUNNING, train=Train(dataset="datasets/tile"))


@dataclass
class Contents:
    """The contents of a server, and the number of watches of its jobs."""

    jobs: list[Job] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    watching: int = 0


class ContentsClient(FakeClient):
    """A client of a server with these contents."""

    contents: Contents

    def jobs(self, **options: Any) -> Iterator[Job]:
        yield from self.contents.jobs

    def job(self, name: str) -> Job:
        return next(job for job in self.contents.jobs if job.name == name)

    def workers(self) -> list[Worker]:
        return self.contents.workers

    def datasets(self) -> Iterator[Dataset]:
        yield from self.contents.datasets

    def models(self) -> Iterator[Model]:
        yield from ()


class WatchingClient(AsyncClient):
    """A client that watches a job without end."""

    def __init__(self, contents: Contents) -> None:
        super().__init__("127.0.0.1:1")
        self._contents = contents

    async def watch(self, job: Job | str) -> AsyncIterator[Job]:  # type: ignore[override]
        self._contents.watching += 1
        try:
            yield RUNNING
            await asyncio.Event().wait()
        finally:
            self._contents.watching -= 1

    async def log(self, job: Job | str, *, after: str = "") -> AsyncIterator[Any]:  # type: ignore[override]
        await asyncio.Event().wait()
        yield


@dataclass(frozen=True)
class ContentsServer(FakeServer):
    """A server with these contents."""

    contents: Contents = field(default_factory=Contents)

    def client(self, token: str) -> Client:
        client = ContentsClient(self.callers, token)
        client.contents = self.contents
        return client

    def job_client(self, token: str) -> AsyncClient:
        return WatchingClient(self.contents)


@dataclass
class Opened:
    """A browser in memory with the page, and the contents that it shows."""

    user: User
    contents: Contents

    async def open(self, path: str = "/train") -> None:
        await self.user.open(path)


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    contents = Contents()
    server = ContentsServer("127.0.0.1:1", contents=contents)
    store = SessionStore(server, 3600)
    session = await store.open()
    assert session is not None
    async with user_simulation() as user:

        @ui.page("/train")
        async def show(job: str = "") -> None:
            await train.build(View(session, "127.0.0.1:1", {"job": job} if job else {}))

        yield Opened(user, contents)
    store.close()


async def until_watching(contents: Contents, count: int) -> None:
    async with asyncio.timeout(5):
        while contents.watching != count:
            await asyncio.sleep(0.01)


async def test_empty_server_leads_to_the_first_step(opened: Opened) -> None:
    await opened.open()
    for text in (texts.NO_JOBS, texts.NO_JOBS_LEAD, texts.NO_WORKERS):
        await opened.user.should_see(text)
    await opened.user.should_see(texts.NO_DATASETS)
    await opened.user.should_see(texts.NO_DATASETS_LEAD)
    await opened.user.should_not_see(texts.START_TRAINING)


async def test_jobs_and_workers_replace_their_empty_states(opened: Opened) -> None:
    opened.contents.jobs.append(RUNNING)
    opened.contents.workers.append(Worker(name="line:7", queues=["train"]))
    opened.contents.datasets.append(Dataset(name="datasets/tile", train_images=24))
    await opened.open()
    await opened.user.should_see("line:7")
    await opened.user.should_see(texts.RUNNING)
    await opened.user.should_see(texts.START_TRAINING)
    for text in (texts.NO_JOBS, texts.NO_WORKERS, texts.NO_DATASETS):
        await opened.user.should_not_see(text)


async def test_jobs_without_a_worker_warn(opened: Opened) -> None:
    opened.contents.jobs.append(RUNNING)
    await opened.open()
    await opened.user.should_see(texts.NO_WORKERS)
    await opened.user.should_not_see(texts.NO_JOBS)


async def test_page_that_is_gone_watches_its_job_no_longer(opened: Opened) -> None:
    opened.contents.jobs.append(RUNNING)
    await opened.open("/train?job=jobs/1")
    await until_watching(opened.contents, 1)
    assert opened.user.client is not None
    opened.user.client.delete()
    await until_watching(opened.contents, 0)
