# SPDX-License-Identifier: Apache-2.0
"""Job records in a real Redis: changed by compare-and-set, worked on by one at a time."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from blemish_core.errors import AlreadyExists, InvalidRequest, JobCancelled, NotFound, Unavailable
from blemish_core.jobs import attempt as attempts
from blemish_core.jobs.attempt import Attempt, LeaseHeld, Superseded
from blemish_core.jobs.record import EmbedSpec, JobState, Phase, Result, Spec
from blemish_core.jobs.store import CHANGES, JobStore
from blemish_local.redis import configure, find_server

SPEC = EmbedSpec(model="models/m/versions/1", dataset="d")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder: Path = tmp_path_factory.mktemp("redis")
    url = configure(folder, port)
    process = subprocess.Popen(
        [str(find_server().executable), str(folder / "redis.conf")], cwd=folder, stdout=subprocess.DEVNULL
    )
    with redis.Redis.from_url(url) as client:
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def store(redis_url: str) -> JobStore:
    return JobStore.connect(redis_url)


def test_a_job_is_written_told_of_and_read_back(store: JobStore, redis_url: str) -> None:
    job, is_new = store.create(SPEC)
    assert is_new
    assert store.get(job.id) == job
    assert store.page(limit=1) == [job]
    with redis.Redis.from_url(redis_url) as client:
        assert client.xrevrange(CHANGES, count=1)[0][1] == {b"job": job.id.encode()}
    with pytest.raises(NotFound):
        store.get("nonesuch")


def test_one_request_id_is_one_job(store: JobStore) -> None:
    first, is_new = store.create(SPEC, "request")
    again, is_new_again = store.create(SPEC, "request")
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    with pytest.raises(AlreadyExists, match=first.id):
        store.create(EmbedSpec(model="models/m/versions/2", dataset="d"), "request")
    with pytest.raises(InvalidRequest, match="at most 128"):
        store.create(SPEC, "x" * 129)


def test_a_request_stays_the_same_whatever_its_model_means_meanwhile(store: JobStore) -> None:
    asked = EmbedSpec(model="models/m", dataset="d")

    def settle(version: int) -> Callable[[Spec], Spec]:
        return lambda spec: spec.model_copy(update={"model": f"models/m/versions/{version}"})

    first, _ = store.create(asked, "promoted", settle(1))
    again, is_new = store.create(asked, "promoted", settle(2))
    assert not is_new
    assert again == first
    assert again.spec.model_dump()["model"] == "models/m/versions/1"


def test_what_cannot_be_settled_leaves_nothing(store: JobStore) -> None:
    def refuse(_: Spec) -> Spec:
        raise NotFound("no such dataset")

    with pytest.raises(NotFound):
        store.create(SPEC, "refused", refuse)
    assert store.create(SPEC, "refused")[1]


@pytest.mark.parametrize("attempt", range(20))
def test_many_at_once_with_one_request_id(redis_url: str, attempt: int) -> None:
    made: list[str] = []
    together = threading.Barrier(8)

    def create() -> None:
        own = JobStore.connect(redis_url)
        own.ping()
        together.wait()
        made.append(own.create(SPEC, f"crowd {attempt}")[0].id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_no_change_is_lost_among_many_writers(redis_url: str, store: JobStore) -> None:
    job, _ = store.create(SPEC)

    def count() -> None:
        own = JobStore.connect(redis_url)
        for _ in range(25):
            own.change(job.id, lambda job: job.model_copy(update={"warnings": (*job.warnings, "x")}))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = store.get(job.id)
    assert len(after.warnings) == 100
    assert after.revision == 101


def test_pages_run_newest_first_and_filter(store: JobStore) -> None:
    made = [store.create(SPEC)[0].id for _ in range(5)]
    store.cancel(made[3])
    first = store.page(limit=2)
    assert [job.id for job in first] == [made[4], made[3]]
    assert [job.id for job in store.page(before=first[-1].id, limit=2)] == [made[2], made[1]]
    assert store.page(limit=1, states=[JobState.CANCELLED])[0].id == made[3]


def test_an_attempt_from_begin_to_end(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    with Attempt(store, job.id) as attempt:
        begun = attempt.begin()
        assert begun is not None
        assert (begun.state, begun.attempt) == (JobState.RUNNING, 1)
        attempt.progress("embedding", 0, 4, "images")
        attempt.progress("embedding", 1, 4, "images")  # too soon after the last to be told
        assert store.get(job.id).phases == (Phase(name="embedding", done=0, total=4, unit="images"),)
        attempt.progress("embedding", 4, 4, "images")
        assert store.get(job.id).phases[0].done == 4
        attempt.finish(JobState.SUCCEEDED, result=Result(indexed_images=4))
    ended = store.get(job.id)
    assert (ended.state, ended.result) == (JobState.SUCCEEDED, Result(indexed_images=4))
    assert ended.ended is not None
    assert [event.to for event in ended.history] == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    assert ended.history[1].worker.endswith(f":{os.getpid()}")
    with Attempt(store, job.id) as again:  # delivered twice
        assert again.begin() is None
    assert store.get(job.id) == ended


def test_two_workers_are_not_at_one_job(store: JobStore, redis_url: str) -> None:
    job, _ = store.create(SPEC)
    with Attempt(store, job.id) as attempt:
        attempt.begin()
        with pytest.raises(LeaseHeld):
            Attempt(JobStore.connect(redis_url), job.id).__enter__()
        attempt.finish(JobState.FAILED, error="x")


def test_a_job_whose_worker_died_is_taken_over_and_the_dead_one_has_no_say(
    store: JobStore, redis_url: str
) -> None:
    job, _ = store.create(SPEC)
    with Attempt(store, job.id) as dead:
        dead.begin()
        with redis.Redis.from_url(redis_url) as client:
            client.delete(f"blemish:lease:{job.id}")  # as if 15 s had passed
        with Attempt(store, job.id) as heir:
            taken = heir.begin()
            assert taken is not None
            assert taken.attempt == 2
            with pytest.raises(Superseded):
                dead.progress("embedding", 1, 1, "images")
            with pytest.raises(Superseded):
                dead.finish(JobState.SUCCEEDED)
            heir.finish(JobState.SUCCEEDED)
    moves = [(event.to, event.attempt) for event in store.get(job.id).history]
    assert moves == [
        (JobState.QUEUED, 0),
        (JobState.RUNNING, 1),
        (JobState.RUNNING, 2),
        (JobState.SUCCEEDED, 2),
    ]
    assert "attempt 1 died" in store.get(job.id).history[2].why


def test_a_job_that_kills_its_workers_fails_in_the_end(store: JobStore, redis_url: str) -> None:
    job, _ = store.create(SPEC)
    for _ in range(attempts.MAX_ATTEMPTS):
        with Attempt(store, job.id) as attempt:
            assert attempt.begin() is not None
    with Attempt(store, job.id) as attempt:
        assert attempt.begin() is None
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED
    assert "its worker died each time" in failed.error


def test_cancelling(store: JobStore) -> None:
    waiting, _ = store.create(SPEC)
    assert store.cancel(waiting.id).state is JobState.CANCELLED
    assert store.cancel(waiting.id).state is JobState.CANCELLED

    running, _ = store.create(SPEC)
    with Attempt(store, running.id) as attempt:
        attempt.begin()
        assert store.cancel(running.id).state is JobState.CANCELLING
        with pytest.raises(JobCancelled):
            attempt.progress("embedding", 1, 1, "images")
        attempt.finish(JobState.CANCELLED)
    assert store.get(running.id).state is JobState.CANCELLED


def test_without_redis_it_says_so(free_port: Callable[[], int]) -> None:
    store = JobStore.connect(f"redis://127.0.0.1:{free_port()}/0")
    for call in (store.ping, store.page, lambda: store.create(SPEC), lambda: store.get("x")):
        with pytest.raises(Unavailable, match="REDIS_URL"):
            call()
