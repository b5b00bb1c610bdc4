# SPDX-License-Identifier: Apache-2.0
"""Checks that must hold after every round, regardless of the fault."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import redis
from tests.chaos.stack import ChaosStack

from blemish_core.jobs.record import TRANSITIONS, EmbedSpec, Job, JobState, TrainSpec
from blemish_core.models import bundle
from blemish_core.platform.names import ModelRef

_SETTLED_WITHIN_S = 25.0
_ENDED_WITHIN_S = 240.0


@dataclass(frozen=True)
class Verdict:
    """The violations found after a round."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.other)


def wait_for_end(stack: ChaosStack, id: str) -> Job | None:
    """Return the job after its end; None if it did not end in time."""
    deadline = time.monotonic() + _ENDED_WITHIN_S
    while time.monotonic() < deadline:
        job = stack.job(id)
        if job.state.ended:
            return job
        time.sleep(0.05)
    return None


def judge(stack: ChaosStack, id: str, expected: JobState, contents: set[str]) -> Verdict:
    """Check a job that should have ended, and everything that it left.

    Args:
        stack: the stack, all of whose processes run again.
        id: the job's id.
        expected: the state in which the job must be.
        contents: the SHA-256 of the images of an embedding; empty for other jobs.
    """
    lost, doubled, other = [], [], []
    job = stack.job(id)
    if job.state is not expected:
        lost.append(f"is {job.state}, not {expected}: {job.error}")
    other += _history(job)
    if isinstance(job.spec, TrainSpec):
        made = [manifest for manifest in stack.models.get(job.spec.model_id).versions if manifest.job == id]
        wanted = int(job.state is JobState.SUCCEEDED)
        if len(made) > wanted:
            doubled.append(f"{len(made)} versions instead of {wanted}")
        if len(made) < wanted:
            lost.append("succeeded, but there is no version")
        for manifest in made:
            folder = stack.models.folder(manifest.model, manifest.version)
            other += [
                f"{manifest.name}: {name} is damaged"
                for name, expected_hash in manifest.sha256.items()
                if bundle.sha256(folder / name) != expected_hash
            ]
    if isinstance(job.spec, EmbedSpec):
        wanted_points = contents if job.state is JobState.SUCCEEDED else set()
        model = job.spec.model
        _settled(lambda: sorted(indexed(stack, model) ^ wanted_points))
        found_points = indexed(stack, model)
        if missing := wanted_points - found_points:
            lost.append(f"{len(missing)} points are missing")
        if extra := found_points - wanted_points:
            doubled.append(f"{len(extra)} extra points")
        if job.result is not None and job.result.indexed_images != len(contents):
            other.append(f"it reports {job.result.indexed_images} points, there are {len(contents)}")
    for description, find in _LEFTOVERS.items():
        if left := _settled(lambda find=find: find(stack)):  # type: ignore[misc]
            other.append(f"{description}: {left}")
    return Verdict(tuple(lost), tuple(doubled), tuple(other))


def indexed(stack: ChaosStack, model: str) -> set[str]:
    """Return the contents in a version's collection, published or not; empty if there is none."""
    ref = ModelRef.parse(model)
    client = stack.qdrant_client
    name = f"blemish.{ref.model}.{ref.version}"
    if not client.collection_exists(name):
        return set()
    contents: set[str] = set()
    offset = None
    while True:
        points, offset = client.scroll(name, limit=1000, offset=offset, with_payload=["sha256"])
        contents.update(str((point.payload or {})["sha256"]) for point in points)
        if offset is None:
            return contents


def _history(job: Job) -> list[str]:
    wrong = []
    states = [event.to for event in job.history]
    for before, after in pairwise(states):
        if after not in TRANSITIONS[before]:
            wrong.append(f"moved from {before} to {after}")
    if sum(state.ended for state in states) != 1:
        wrong.append(f"ended {sum(state.ended for state in states)} times")
    attempts = [event.attempt for event in job.history]
    if attempts != sorted(attempts):
        wrong.append(f"attempts are not in order: {attempts}")
    return wrong


def _leases(stack: ChaosStack) -> list[str]:
    with redis.Redis.from_url(stack.redis_url) as client:
        return [key.decode() for key in client.scan_iter("blemish:lease:*")]


def _staged(stack: ChaosStack) -> list[str]:
    return [str(folder) for folders in stack.models.staged_folders().values() for folder in folders]


def _checkpoints(stack: ChaosStack) -> list[str]:
    folder = stack.store_folder / "checkpoints"
    return [each.name for each in folder.iterdir()] if folder.is_dir() else []


def _orphans(stack: ChaosStack) -> list[str]:
    """Return the children without a worker, and those beyond a worker's single slot."""
    workers = {worker.pid for worker in stack.workers if worker.alive}
    parents = [child.ppid() for child in stack.children()]
    wrong = [f"a child of {parent}" for parent in parents if parent not in workers]
    return wrong + [f"two of {parent}" for parent in set(parents) if parents.count(parent) > 1]


def _unfinished(stack: ChaosStack) -> list[str]:
    return [job.id for job in stack.jobs.unfinished()]


_LEFTOVERS: dict[str, Callable[[ChaosStack], list[str]]] = {
    "lease left": _leases,
    "staging folder left": _staged,
    "checkpoint left": _checkpoints,
    "orphan process": _orphans,
    "unfinished job": _unfinished,
}


def _settled(find: Callable[[], list[str]]) -> list[str]:
    """Return the findings that remain after a while."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
