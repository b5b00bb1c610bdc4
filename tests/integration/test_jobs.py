# SPDX-License-Identifier: Apache-2.0
"""Jobs on the real stack: watched, cancelled, killed, limited."""

import asyncio
import time
from collections.abc import AsyncIterable
from pathlib import Path

import grpc.aio
import psutil
import pytest
import redis.asyncio

from blemish.v1.job_pb2 import (
    JOB_PRIORITY_HIGH,
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
    WatchJobRequest,
    WatchJobResponse,
)
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish_client import Client
from blemish_client.errors import InvalidArgument


@pytest.fixture(scope="module")
def model(tile_model: str) -> str:
    """Provide the dataset tile and a version of the model tile."""
    return tile_model


def until(client: Client, job: Job, phase: str) -> Job:
    """Follow a job until a phase of it has begun."""
    for seen in client.watch(job):
        if any(each.name == phase for each in seen.phases):
            return seen
    raise AssertionError(f"{job.name} ended before {phase}")


def children(stack_data: Path) -> list[psutil.Process]:
    """Return the child processes of the stack's worker."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "blemish_workers.child" in command and str(stack_data) in process.environ().get(
            "BLEMISH_STORE", ""
        ):
            found.append(process)
    return found


@pytest.mark.parametrize("phase", ["features", "coreset"])
def test_training_is_cancelled_within_two_seconds_and_leaves_nothing(
    client: Client, model: str, stack_data: Path, phase: str
) -> None:
    job = client.train("tile", model_id="cancelled")
    until(client, job, phase)
    asked = time.monotonic()
    client.cancel(job)
    ended = client.wait(job)
    assert time.monotonic() - asked < 2
    assert ended.state == JOB_STATE_CANCELLED
    assert [event.reason for event in ended.history][-2] == "cancellation requested"
    assert list((stack_data / "store" / "models" / "cancelled").glob("*")) == []
    assert not (stack_data / "store" / "checkpoints" / job.name.split("/")[1]).exists()


def test_killed_child_is_replaced_at_once_and_recorded(
    client: Client, model: str, stack_data: Path
) -> None:
    job = client.train("tile", model_id="killed")
    until(client, job, "features")
    killed = time.time()
    for child in children(stack_data):
        child.kill()
    ended = client.wait(job)
    assert ended.state == JOB_STATE_SUCCEEDED
    assert ended.attempt == 2
    again = ended.history[2]
    assert again.state == JOB_STATE_RUNNING
    assert again.reason == "the process of attempt 1 was killed by SIGKILL (out of memory?)"
    assert again.time.seconds - killed < 10
    assert len(list((stack_data / "store" / "models" / "killed").iterdir())) == 1


def test_job_that_exceeds_its_limits_fails_with_the_reason(client: Client, model: str) -> None:
    slow = client.wait(client.train("tile", model_id="slow", max_run_time_s=0.5))
    assert slow.state == JOB_STATE_FAILED
    assert "limit of 0.5 s" in slow.error
    large = client.wait(client.train("tile", model_id="large", max_memory_bytes=50 << 20))
    assert large.state == JOB_STATE_FAILED
    assert "limit of 50 MiB" in large.error
    assert large.limits.max_memory_bytes == 50 << 20


def test_watch_can_resume_at_any_revision(client: Client, model: str, stack_address: str) -> None:
    job = client.wait(client.evaluate(model, "tile"))

    def replay(after: int) -> list[Job]:
        request = WatchJobRequest(name=job.name, after_revision=after)
        with grpc.insecure_channel(stack_address) as channel:
            return [answer.job for answer in JobServiceStub(channel).WatchJob(request)]

    everything = replay(0)
    assert [each.revision for each in everything] == list(range(1, job.revision + 1))
    assert [each.state for each in everything][:2] == [JOB_STATE_QUEUED, JOB_STATE_RUNNING]
    assert everything[-1] == job
    assert replay(job.revision // 2) == everything[job.revision // 2 :]
    assert replay(job.revision) == []


async def test_five_hundred_watchers_share_one_reader_of_redis(
    client: Client, model: str, stack_address: str, stack_data: Path
) -> None:
    """Each watcher reads Redis once when it starts; later events are read once for all."""
    url = next(
        line.partition("=")[2].strip("'")
        for line in (stack_data / "run" / "environment.sh").read_text().splitlines()
        if line.startswith("export REDIS_URL")
    )
    job = client.train("tile", model_id="watched")
    until(client, job, "check")
    async with grpc.aio.insecure_channel(stack_address) as channel, redis.asyncio.from_url(url) as asked:
        before = await asked.info()
        calls = [JobServiceStub(channel).WatchJob(WatchJobRequest(name=job.name)) for _ in range(500)]

        async def follow(call: AsyncIterable[WatchJobResponse]) -> list[int]:
            return [answer.job.revision async for answer in call]

        seen = await asyncio.gather(*(follow(call) for call in calls))
        after = await asked.info()
    ended = client.job(job.name)
    assert ended.state == JOB_STATE_SUCCEEDED
    for revisions in seen:
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == ended.revision
        assert len(revisions) > 5  # not the end alone
    # The pool of these reads is bounded by the server's threads, not by the number of watchers.
    assert after["connected_clients"] - before["connected_clients"] < 50
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    told = 500 * len(seen[0])
    print(f"{commands} commands of Redis while {told} changes were told")
    assert commands < 3 * 500 + 100 * ended.revision


def test_job_log_can_be_read_and_resumed(client: Client, model: str) -> None:
    job = client.evaluate(model, "tile")
    followed = list(client.log(job))  # from before it began until it ended
    texts = [line.text for line in followed]
    assert any('"step started"' in text for text in texts)
    assert any('"step finished"' in text for text in texts)
    assert all(job.name.split("/")[1] in text for text in texts if "step started" in text)
    assert list(client.log(job)) == followed
    assert list(client.log(job, after=followed[0].id)) == followed[1:]
    with pytest.raises(InvalidArgument, match="is not the id of a log line"):
        list(client.log(job, after="yesterday"))


def test_waiting_jobs_have_a_position_and_urgent_jobs_go_first(client: Client, model: str) -> None:
    running = client.train("tile", model_id="placed")
    until(client, running, "check")
    waiting = [client.train("tile", model_id="placed", max_run_time_s=600) for _ in range(2)]
    urgent = client.train("tile", model_id="placed", priority=JOB_PRIORITY_HIGH)
    assert [client.job(job.name).queue_position for job in (urgent, *waiting)] == [1, 2, 3]
    listed = {job.name: job.queue_position for job in client.jobs(states=[JOB_STATE_QUEUED])}
    assert listed == {urgent.name: 1, waiting[0].name: 2, waiting[1].name: 3}
    client.cancel(running)
    until(client, urgent, "check")
    assert client.job(waiting[0].name).state == JOB_STATE_QUEUED
    for job in (urgent, *waiting):
        client.cancel(job)
        assert client.wait(job).state == JOB_STATE_CANCELLED


def test_workers_are_listed_with_their_jobs(client: Client, model: str) -> None:
    (idle,) = client.workers()
    assert list(idle.queues) == ["train", "embed"]
    assert list(idle.devices) == ["cpu"]
    assert idle.canary_time.seconds >= idle.start_time.seconds
    job = client.train("tile", model_id="seen")
    until(client, job, "check")
    give_up = time.monotonic() + 10
    while list(next(iter(client.workers())).jobs) != [job.name]:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    client.cancel(job)
    client.wait(job)
