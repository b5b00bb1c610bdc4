# SPDX-License-Identifier: Apache-2.0
"""What is done to the stack while a job is at some phase."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from celery import Celery
from tests.chaos.house import House

from blemish_core.jobs.attempt import MAX_DEATHS
from blemish_core.jobs.queues import celery_message
from blemish_core.jobs.record import JobState

_OUTAGE_S = 1.0
_REDIS_STOPPED_S = 30.0
_WORKER_STOPPED_S = 25.0
_NOTICED_WITHIN_S = 60.0
_POISON_WITHIN_S = 90.0
TOO_LATE = object()
"""A job that has begun to make its result visible is past cancelling, and past a third death."""


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[House, str], object]
    """Does it to the stack because of a job, and mends what a supervisor would mend.

    Returns ``TOO_LATE`` if the job had its result by then.
    """
    expected: JobState = JobState.SUCCEEDED
    of: tuple[str, ...] = ("train", "embed")
    within_s: float = 0.0
    """Somebody should work on the job again, or it be cancelled, within this time; 0 promises nothing."""


def _worker(house: House, id: str) -> str:
    """Who works on a job, or did last."""
    return next((event.worker for event in reversed(house.job(id).history) if event.worker), "")


def kill_child(house: House, id: str) -> None:
    house.child_at(house.worker_of(_worker(house, id))).kill()


def kill_child_each_time(house: House, id: str) -> object:
    """Kill whatever works on the job, again and again."""
    deaths, give_up = 0, time.monotonic() + _POISON_WITHIN_S
    while deaths < MAX_DEATHS and time.monotonic() < give_up:
        job = house.job(id)
        if job.committed:
            return TOO_LATE
        if job.state.ended:
            return None
        if job.attempt > deaths and job.phases:
            kill_child(house, id)
            deaths += 1
        time.sleep(0.05)
    return TOO_LATE if house.job(id).committed else None


def kill_worker(house: House, id: str) -> None:
    """It comes back only when the other one has taken over."""
    house.worker_of(_worker(house, id)).kill()


def kill_server(house: House, id: str) -> None:
    house.server.kill()
    time.sleep(_OUTAGE_S)
    house.server.start()


def kill_redis(house: House, id: str) -> None:
    house.redis.kill()
    time.sleep(_OUTAGE_S)
    house.redis.start()


def kill_qdrant(house: House, id: str) -> None:
    house.qdrant.kill()
    time.sleep(_OUTAGE_S)
    house.qdrant.start()


def stop_redis(house: House, id: str) -> None:
    with house.redis.stopped():
        time.sleep(_REDIS_STOPPED_S)


def stop_worker(house: House, id: str) -> None:
    """Longer than its lease: it wakes up when another one has taken its job."""
    with house.worker_of(_worker(house, id)).stopped():
        time.sleep(_WORKER_STOPPED_S)


def end_worker(house: House, id: str) -> None:
    """As at an update: it is told to stop, and hands its job back."""
    house.worker_of(_worker(house, id)).end()


def deliver_again(house: House, id: str) -> None:
    celery = Celery("chaos", broker=house.redis_url, set_as_current=False)
    for _ in range(5):
        celery.send_task(**celery_message(house.job(id)))
    celery.close()


def hand_to_two(house: House, id: str) -> None:
    """Take the lease from who has it, and have another one begin while he works on."""
    with redis.Redis.from_url(house.redis_url) as client:
        client.delete(f"blemish:lease:{id}")
    deliver_again(house, id)


def step_clock_back(house: House, id: str) -> None:
    house.set_clock(-3600)


def cancel(house: House, id: str) -> object:
    return TOO_LATE if house.jobs.cancel(id).committed else None


def nothing(house: House, id: str) -> None:
    """It was done before the job began."""


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Have next to no room below ``folder``; PermissionError where that takes more rights."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def deafen(house: House) -> None:
    """Have the workers live on and fetch nothing, as after celery #8030."""
    celery = Celery("chaos", broker=house.redis_url, set_as_current=False)
    for worker in house.workers:
        name = f"{socket.gethostname()}:{worker.pid}"
        for queue in ("train", "embed", f"canary.{name}"):
            celery.control.cancel_consumer(queue, destination=[f"{name.replace(':', '.')}@blemish"])
    celery.close()


def wait_for_deaf_workers(house: House, id: str) -> None:
    """They notice it themselves and end; what a supervisor does is to start others."""
    give_up = time.monotonic() + _NOTICED_WITHIN_S
    for worker in house.workers:
        while worker.alive:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{worker.name} does not notice that it gets no work")
            time.sleep(0.1)
        worker.start()


CANCELLED = Fault("cancelled", cancel, JobState.CANCELLED, within_s=2)
DEAF = Fault("workers that no longer consume", wait_for_deaf_workers, of=("train",))
DISK_FULL = Fault("disk full while staging", nothing, JobState.FAILED, of=("train",))
OLDER_BUILD = Fault("worker of an older build, killed", nothing, of=("train",))

FAULTS = (
    Fault("kill -9 of the child", kill_child, within_s=10),
    Fault("kill -9 of the child, each time", kill_child_each_time, JobState.FAILED, of=("train",)),
    Fault("kill -9 of the worker", kill_worker, within_s=60),
    Fault("SIGTERM to the worker", end_worker, within_s=60),
    Fault("SIGSTOP of the worker for 25 s", stop_worker, within_s=60),
    Fault("kill -9 of the server", kill_server),
    Fault("kill -9 of Redis", kill_redis),
    Fault("SIGSTOP of Redis for 30 s", stop_redis),
    Fault("kill -9 of Qdrant", kill_qdrant),
    Fault("delivered five times more", deliver_again),
    Fault("handed to two workers", hand_to_two, within_s=60),
    Fault("clock an hour back", step_clock_back),
    CANCELLED,
    DEAF,
    DISK_FULL,
    OLDER_BUILD,
)
