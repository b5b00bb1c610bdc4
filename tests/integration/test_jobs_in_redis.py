# SPDX-License-Identifier: Apache-2.0
"""Job records in a real Redis: compare-and-set, leases, replay."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from tests.support.ports import free_port
from tests.support.processes import running, wait_for_port

from blemish_core.jobs.attempt import MAX_DEATHS, Attempt, Superseded
from blemish_core.jobs.lease import Lease, LeaseHeld
from blemish_core.jobs.record import EmbedSpec, Job, JobPriority, JobState, Limits, Result, Spec, now
from blemish_core.jobs.shards import ShardTracker
from blemish_core.jobs.store import UPDATES_KEY, JobStore, parse_update
from blemish_core.jobs.worker_registry import WorkerInfo, WorkerRegistry
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, JobCancelled, NotFound, Unavailable
from blemish_local.redis import configure, find_server

SPEC = EmbedSpec(model="models/m/versions/1", dataset="d")
WORKER = "line-3:77"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    url = configure(folder, port)
    with running(str(find_server().executable), str(folder / "redis.conf"), folder=folder) as process:
        wait_for_port(f"127.0.0.1:{port}", process)
        yield url


@pytest.fixture
def store(redis_url: str) -> JobStore:
    return JobStore.connect(redis_url)


def test_job_names_its_creator_and_its_canceller(store: JobStore) -> None:
    job, _ = store.create(SPEC, by="office")
    assert [event.why for event in job.history] == ["requested by office"]
    ended = store.cancel(job.id, by="mes")
    assert [event.why for event in ended.history] == [
        "requested by office",
        "cancellation requested by mes",
    ]
    nobody, _ = store.create(SPEC)
    assert [event.why for event in store.cancel(nobody.id).history] == ["", "cancellation requested"]


def test_job_is_written_announced_and_read_back(store: JobStore, redis_url: str) -> None:
    job, is_new = store.create(SPEC)
    assert is_new
    assert store.get(job.id) == job
    assert store.page(limit=1) == [job]
    with redis.Redis.from_url(redis_url) as client:
        told = parse_update(client.xrevrange(UPDATES_KEY, count=1)[0][1])
    assert told.job == job.id
    assert told.change is not None
    assert told.change.job == job
    with pytest.raises(NotFound):
        store.get("nonesuch")


def test_repeated_request_id_returns_the_same_job(store: JobStore) -> None:
    first, is_new = store.create(SPEC, "request")
    again, is_new_again = store.create(SPEC, "request")
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    with pytest.raises(AlreadyExists, match=first.id) as refused:
        store.create(EmbedSpec(model="models/m/versions/2", dataset="d"), "request")
    assert "Existing job: model='models/m/versions/1'. This request: model='models/m/versions/2'" in str(
        refused.value
    )
    with pytest.raises(InvalidRequest, match="at most 128"):
        store.create(SPEC, "x" * 129)


def test_repeated_request_is_the_same_although_its_model_moved(store: JobStore) -> None:
    asked = EmbedSpec(model="models/m", dataset="d")

    def settle(version: int) -> Callable[[Spec], Spec]:
        return lambda spec: spec.model_copy(update={"model": f"models/m/versions/{version}"})

    first, _ = store.create(asked, "promoted", settle(1))
    again, is_new = store.create(asked, "promoted", settle(2))
    assert not is_new
    assert again == first
    assert again.spec.model_dump()["model"] == "models/m/versions/1"


def test_job_that_fails_validation_leaves_nothing(store: JobStore) -> None:
    def refuse(_: Spec) -> Spec:
        raise NotFound("no such dataset")

    with pytest.raises(NotFound):
        store.create(SPEC, "refused", refuse)
    assert store.create(SPEC, "refused")[1]


@pytest.mark.parametrize("attempt", range(20))
def test_concurrent_requests_with_one_id_create_one_job(redis_url: str, attempt: int) -> None:
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


def test_concurrent_changes_are_all_kept(redis_url: str, store: JobStore) -> None:
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


def begun(store: JobStore, id: str, death: str = "") -> Attempt:
    attempt = Attempt.begin(store, id, WORKER, death)
    assert attempt is not None
    return attempt


def test_attempt_from_begin_to_end(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    attempt = begun(store, job.id)
    assert (attempt.job.state, attempt.job.attempt) == (JobState.RUNNING, 1)
    attempt.progress("embedding", 2, 4, "images")
    (phase,) = store.get(job.id).phases
    assert (phase.name, phase.done, phase.total, phase.unit) == ("embedding", 2, 4, "images")
    attempt.warn("an image is damaged")
    attempt.warn("an image is damaged")  # as after an answer that was lost
    attempt.commit()
    attempt.finish(JobState.SUCCEEDED, result=Result(indexed_images=4))
    ended = store.get(job.id)
    attempt.finish(JobState.SUCCEEDED, result=Result(indexed_images=4))  # likewise
    assert store.get(job.id) == ended
    assert (ended.state, ended.result) == (JobState.SUCCEEDED, Result(indexed_images=4))
    assert ended.warnings == ("an image is damaged",)
    assert ended.ended is not None
    assert [(event.to, event.worker) for event in ended.history] == [
        (JobState.QUEUED, ""),
        (JobState.RUNNING, WORKER),
        (JobState.SUCCEEDED, WORKER),
    ]
    assert Attempt.begin(store, job.id, WORKER) is None  # delivered twice
    assert store.get(job.id) == ended
    assert job.id not in {each.id for each in store.unfinished()}


def test_only_one_worker_leases_a_job(store: JobStore, redis_url: str) -> None:
    job, _ = store.create(SPEC)
    with Lease(store, job.id):
        assert store.are_leased([job.id, "another"]) == [True, False]
        with pytest.raises(LeaseHeld), Lease(JobStore.connect(redis_url), job.id):
            pass
    assert store.are_leased([job.id]) == [False]


def test_job_of_a_dead_worker_is_taken_over_and_fenced(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    dead, heir = begun(store, job.id), begun(store, job.id)
    assert (heir.job.attempt, heir.job.deaths) == (2, 1)
    for say in (
        lambda: dead.progress("embedding", 1, 1, "images"),
        lambda: dead.warn("x"),
        dead.commit,
        lambda: dead.divide(3),
        lambda: dead.requeue("x"),
        lambda: dead.finish(JobState.SUCCEEDED),
    ):
        with pytest.raises(Superseded):
            say()
    assert store.get(job.id) == heir.job
    heir.finish(JobState.SUCCEEDED)
    with pytest.raises(Superseded):
        dead.finish(JobState.SUCCEEDED)
    moves = [(event.to, event.attempt) for event in store.get(job.id).history]
    assert moves == [
        (JobState.QUEUED, 0),
        (JobState.RUNNING, 1),
        (JobState.RUNNING, 2),
        (JobState.SUCCEEDED, 2),
    ]
    assert "attempt 1 died" in store.get(job.id).history[2].why


def test_job_that_kills_its_workers_fails_in_the_end(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    for death in range(MAX_DEATHS):
        begun(store, job.id, f"the process of attempt {death} was killed by SIGKILL")
    assert Attempt.begin(store, job.id, WORKER, "the process of attempt 3 was killed by SIGBUS") is None
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED
    assert "died 3 times" in failed.error
    assert "attempt 3 was killed by SIGBUS" in failed.error


def test_job_handed_back_does_not_count_as_a_death(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    for _ in range(MAX_DEATHS + 1):
        begun(store, job.id).requeue("its worker was stopped")
        waiting = store.get(job.id)
        assert waiting.state is JobState.QUEUED
        assert waiting.history[-1].why == "its worker was stopped"
    assert begun(store, job.id).job.deaths == 0


def test_cancelled_job_moves_to_its_last_state(store: JobStore) -> None:
    waiting, _ = store.create(SPEC)
    assert store.cancel(waiting.id).state is JobState.CANCELLED
    assert store.cancel(waiting.id).state is JobState.CANCELLED

    running, _ = store.create(SPEC)
    attempt = begun(store, running.id)
    assert store.cancel(running.id).state is JobState.CANCELLING
    with pytest.raises(JobCancelled):
        attempt.commit()
    attempt.finish(JobState.CANCELLED)
    assert store.get(running.id).state is JobState.CANCELLED

    committed, _ = store.create(SPEC)
    attempt = begun(store, committed.id)
    attempt.commit()
    assert store.cancel(committed.id).state is JobState.RUNNING
    attempt.finish(JobState.SUCCEEDED)

    died, _ = store.create(SPEC)
    begun(store, died.id)
    store.cancel(died.id)
    assert Attempt.begin(store, died.id, WORKER) is None
    assert store.get(died.id).state is JobState.CANCELLED

    back, _ = store.create(SPEC)
    attempt = begun(store, back.id)
    store.cancel(back.id)
    attempt.requeue("its worker was stopped")
    assert store.get(back.id).state is JobState.CANCELLED


def test_each_ended_job_is_counted_once(store: JobStore) -> None:
    before = store.ended_counts()
    jobs = [store.create(SPEC)[0] for _ in range(3)]
    assert store.ended_counts() == before
    for job in (jobs[0], jobs[1], jobs[0]):
        store.cancel(job.id)
    failed = store.change(jobs[2].id, lambda job: job.with_state(JobState.FAILED, why="no disk"))
    store.change(failed.id, lambda job: job.model_copy(update={"error": "said later"}))
    more = {what: count - before.get(what, 0) for what, count in store.ended_counts().items()}
    assert {what: count for what, count in more.items() if count} == {
        ("embed", "cancelled"): 2,
        ("embed", "failed"): 1,
    }


def test_changes_can_be_replayed_one_by_one(store: JobStore) -> None:
    """The kept changes of a job reproduce each of its records."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    job, _ = store.create(SPEC)
    attempt = begun(store, job.id)
    records = {1: job, 2: attempt.job}
    for _ in range(60):
        match rng.randrange(8):
            case 0:
                attempt.warn(f"warning {rng.randrange(100)}")
            case 1:
                attempt = begun(store, job.id) if attempt.job.deaths < MAX_DEATHS - 1 else attempt
            case _:
                name = rng.choice(["check", "features", "coreset"])
                attempt.progress(name, rng.randrange(9), 9, "images")
        after = store.get(job.id)
        records[after.revision] = after
    replayed: Job | None = None
    for change in store.changes(job.id):
        replayed = change.apply_to(replayed)
        assert replayed == records[change.revision]
    assert replayed == store.get(job.id)
    assert [change.revision for change in store.changes(job.id, after=7)] == list(
        range(8, replayed.revision + 1)
    )


def test_log_lines_keep_their_order_and_can_be_resumed(store: JobStore, redis_url: str) -> None:
    job, _ = store.create(SPEC)
    store.append_log(job.id, [f"line {number}" for number in range(5)])
    store.append_log(job.id, ["x" * 5000])
    lines = store.read_log(job.id)
    assert [line.text for line in lines[:5]] == [f"line {number}" for number in range(5)]
    assert lines[5].text == "x" * 2000 + " ..."
    assert store.read_log(job.id, after=lines[3].id) == lines[4:]
    with redis.Redis.from_url(redis_url) as client:
        assert parse_update(client.xrevrange(UPDATES_KEY, count=1)[0][1]).line == lines[-1]


def test_priorities_and_limits_are_part_of_a_request(store: JobStore) -> None:
    limits = Limits(max_seconds=60, max_bytes=1 << 30)
    job, _ = store.create(SPEC, "limited", priority=JobPriority.HIGH, limits=limits)
    assert (job.priority, job.limits) == (JobPriority.HIGH, limits)
    assert store.create(SPEC, "limited", priority=JobPriority.HIGH, limits=limits) == (job, False)
    with pytest.raises(AlreadyExists, match="differ in priority or limits"):
        store.create(SPEC, "limited", priority=JobPriority.LOW, limits=limits)


def test_each_shard_is_done_once_and_by_one_worker(store: JobStore) -> None:
    job, _ = store.create(SPEC)
    assert begun(store, job.id).divide(3).parts == 3
    assert begun(store, job.id).divide(4).parts == 3  # what an earlier attempt has done counts
    board, others = ShardTracker(store, job.id, 3), ShardTracker(store, job.id, 3)
    (first, lease), *_ = board.unfinished()
    with lease:
        (same, held), *rest = others.unfinished()
        assert same == first
        with pytest.raises(LeaseHeld), held:
            pass
        board.mark_finished(first, 7)
    assert [part.number for part, _ in others.unfinished()] == [part.number for part, _ in rest]
    assert others.points() == {first.number: 7}
    assert [board.record_failure(rest[0][0]), others.record_failure(rest[0][0])] == [1, 2]
    assert board.points() == {first.number: 7}


def test_claim_succeeds_once(store: JobStore) -> None:
    assert store.claim("a", 0.2)
    assert not store.claim("a", 0.2)
    assert store.claim("b", 0.2)
    time.sleep(0.25)
    assert store.claim("a", 0.2)


def test_old_jobs_are_removed_with_their_records(store: JobStore, redis_url: str) -> None:
    ended, _ = store.create(SPEC, "forgotten")
    store.append_log(ended.id, ["line"])
    begun(store, ended.id).divide(2)
    store.set_shard_count(ended.id, "0", 1)
    store.cancel(ended.id)
    begun_again = Attempt.begin(store, ended.id, WORKER)
    assert begun_again is None
    open_job, _ = store.create(SPEC)
    assert ended.id not in store.delete_ended(ended.created)
    forgotten = store.delete_ended(now())
    assert ended.id in forgotten
    assert open_job.id not in forgotten
    with pytest.raises(NotFound):
        store.get(ended.id)
    with redis.Redis.from_url(redis_url) as client:
        assert not list(client.scan_iter(f"*{ended.id}*"))
    assert store.create(SPEC, "forgotten")[1]


def test_workers_announce_themselves_and_expire(redis_url: str) -> None:
    staff = WorkerRegistry.connect(redis_url)

    def worker(name: str) -> WorkerInfo:
        return WorkerInfo(name=name, version="1", queues=("train",), devices=("cpu",), started=now())

    assert staff.heartbeat(worker("line-3:1")) == []
    assert staff.heartbeat(worker("line-4:2")) == []
    assert [each.name for each in staff.workers()] == ["line-3:1", "line-4:2"]
    staff.remove("line-3:1")
    with redis.Redis.from_url(redis_url) as client:
        seconds, _ = client.time()
        client.zadd("blemish:staff:seen", {"line-4:2": seconds - 30})
        assert staff.workers() == []
        client.zadd("blemish:staff:seen", {"line-4:2": seconds - 90})
    assert staff.heartbeat(worker("line-5:3")) == ["line-4:2"]
    assert [each.name for each in staff.workers()] == ["line-5:3"]


def test_older_build_keeps_unknown_fields_of_a_record(store: JobStore, redis_url: str) -> None:
    job, _ = store.create(SPEC)
    with redis.Redis.from_url(redis_url) as client:
        record = client.get(f"blemish:job:{job.id}").decode()
        client.set(f"blemish:job:{job.id}", record.replace('{"id"', '{"of_tomorrow":{"a":[1]},"id"', 1))
        begun(store, job.id).progress("embedding", 1, 2, "images")
        assert b'"of_tomorrow":{"a":[1]}' in client.get(f"blemish:job:{job.id}")


def test_missing_redis_is_reported() -> None:
    store = JobStore.connect(f"redis://127.0.0.1:{free_port()}/0")
    for call in (store.ping, store.page, lambda: store.create(SPEC), lambda: store.get("x")):
        with pytest.raises(Unavailable, match="REDIS_URL"):
            call()
