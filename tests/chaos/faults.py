# SPDX-License-Identifier: Apache-2.0
"""Faults that are injected into the stack while a job is in some phase."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from celery import Celery
from tests.chaos.stack import ChaosStack

from blemish_core.jobs.attempt import MAX_DEATHS
from blemish_core.jobs.queues import celery_message
from blemish_core.jobs.record import JobState

_OUTAGE_S = 1.0
_REDIS_SUSPENDED_S = 30.0
_WORKER_SUSPENDED_S = 25.0
_DEAF_WITHIN_S = 60.0
_POISON_WITHIN_S = 90.0
TOO_LATE = object()
"""The result of a fault that hit after the job began to publish its result.

Such a job can neither be cancelled nor fail for a third death.
"""


@dataclass(frozen=True)
class Fault:
    """A fault and the outcome that it must have."""

    name: str
    inject: Callable[[ChaosStack, str], object]
    """A function of the stack and a job's id that also repairs what a supervisor would repair.

    It returns ``TOO_LATE`` if the job had its result before.
    """
    expected: JobState = JobState.SUCCEEDED
    kinds: tuple[str, ...] = ("train", "embed")
    """Kinds of jobs that it is injected into."""
    within_s: float = 0.0
    """Time until another attempt runs or the job is cancelled, in seconds; 0 if there is no promise."""


def _worker_name(stack: ChaosStack, id: str) -> str:
    """Return the last worker in a job's history."""
    return next((event.worker for event in reversed(stack.job(id).history) if event.worker), "")


def kill_child(stack: ChaosStack, id: str) -> None:
    stack.wait_for_child(stack.find_worker(_worker_name(stack, id))).kill()


def kill_every_child(stack: ChaosStack, id: str) -> object:
    """Kill the child of each attempt until the job gives up."""
    deaths, deadline = 0, time.monotonic() + _POISON_WITHIN_S
    while deaths < MAX_DEATHS and time.monotonic() < deadline:
        job = stack.job(id)
        if job.committed:
            return TOO_LATE
        if job.state.ended:
            return None
        if job.attempt > deaths and job.phases:
            kill_child(stack, id)
            deaths += 1
        time.sleep(0.05)
    return TOO_LATE if stack.job(id).committed else None


def kill_worker(stack: ChaosStack, id: str) -> None:
    """Kill the worker; it is restarted only after the other one has taken over."""
    stack.find_worker(_worker_name(stack, id)).kill()


def kill_server(stack: ChaosStack, id: str) -> None:
    stack.server.kill()
    time.sleep(_OUTAGE_S)
    stack.server.start()


def kill_redis(stack: ChaosStack, id: str) -> None:
    stack.redis.kill()
    time.sleep(_OUTAGE_S)
    stack.redis.start()


def kill_qdrant(stack: ChaosStack, id: str) -> None:
    stack.qdrant.kill()
    time.sleep(_OUTAGE_S)
    stack.qdrant.start()


def suspend_redis(stack: ChaosStack, id: str) -> None:
    with stack.redis.suspended():
        time.sleep(_REDIS_SUSPENDED_S)


def suspend_worker(stack: ChaosStack, id: str) -> None:
    """Suspend the worker for longer than its lease, so that it resumes after a takeover."""
    with stack.find_worker(_worker_name(stack, id)).suspended():
        time.sleep(_WORKER_SUSPENDED_S)


def terminate_worker(stack: ChaosStack, id: str) -> None:
    """Ask the worker to stop, like an update; it hands its job back."""
    stack.find_worker(_worker_name(stack, id)).terminate()


def deliver_again(stack: ChaosStack, id: str) -> None:
    celery = Celery("chaos", broker=stack.redis_url, set_as_current=False)
    for _ in range(5):
        celery.send_task(**celery_message(stack.job(id)))
    celery.close()


def run_twice(stack: ChaosStack, id: str) -> None:
    """Delete the lease, so that another worker begins while the first one continues."""
    with redis.Redis.from_url(stack.redis_url) as client:
        client.delete(f"blemish:lease:{id}")
    deliver_again(stack, id)


def set_clock_back(stack: ChaosStack, id: str) -> None:
    stack.set_clock_offset(-3600)


def cancel(stack: ChaosStack, id: str) -> object:
    return TOO_LATE if stack.jobs.cancel(id).committed else None


def do_nothing(stack: ChaosStack, id: str) -> None:
    """Do nothing, because the fault was injected before the job."""


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Mount a tiny file system on a folder.

    Raises:
        PermissionError: if this user may not mount.
    """
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


def deafen(stack: ChaosStack) -> None:
    """Make the workers stop consuming messages without exiting, as in celery #8030."""
    celery = Celery("chaos", broker=stack.redis_url, set_as_current=False)
    for worker in stack.workers:
        name = f"{socket.gethostname()}:{worker.pid}"
        for queue in ("train", "embed", f"canary.{name}"):
            celery.control.cancel_consumer(queue, destination=[f"{name.replace(':', '.')}@blemish"])
    celery.close()


def restart_deaf_workers(stack: ChaosStack, id: str) -> None:
    """Wait until the workers detect that they receive nothing and exit; start them like a supervisor."""
    deadline = time.monotonic() + _DEAF_WITHIN_S
    for worker in stack.workers:
        while worker.alive:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{worker.name} did not detect that it receives no messages")
            time.sleep(0.1)
        worker.start()


CANCELLED = Fault("cancelled", cancel, JobState.CANCELLED, within_s=2)
DEAF = Fault("workers that no longer consume", restart_deaf_workers, kinds=("train",))
DISK_FULL = Fault("disk full while staging", do_nothing, JobState.FAILED, kinds=("train",))
OLDER_BUILD = Fault("worker of an older build, killed", do_nothing, kinds=("train",))

FAULTS = (
    Fault("kill -9 of the child", kill_child, within_s=10),
    Fault("kill -9 of the child, each time", kill_every_child, JobState.FAILED, kinds=("train",)),
    Fault("kill -9 of the worker", kill_worker, within_s=60),
    Fault("SIGTERM to the worker", terminate_worker, within_s=60),
    Fault("SIGSTOP of the worker for 25 s", suspend_worker, within_s=60),
    Fault("kill -9 of the server", kill_server),
    Fault("kill -9 of Redis", kill_redis),
    Fault("SIGSTOP of Redis for 30 s", suspend_redis),
    Fault("kill -9 of Qdrant", kill_qdrant),
    Fault("delivered five times more", deliver_again),
    Fault("handed to two workers", run_twice, within_s=60),
    Fault("clock an hour back", set_clock_back),
    CANCELLED,
    DEAF,
    DISK_FULL,
    OLDER_BUILD,
)
