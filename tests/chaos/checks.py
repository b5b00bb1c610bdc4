# SPDX-License-Identifier: Apache-2.0
"""What must hold after every round, whatever was done to the stack."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import redis
from tests.chaos.house import House

from blemish_core.jobs.record import TRANSITIONS, EmbedSpec, Job, JobState, TrainSpec
from blemish_core.models import bundle
from blemish_core.platform.names import ModelRef

_SETTLED_WITHIN_S = 25.0
_ENDED_WITHIN_S = 240.0


@dataclass(frozen=True)
class Verdict:
    """What was wrong; nothing if both are empty."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.other)


def wait_for_end(house: House, id: str) -> Job | None:
    """Return the job as it ended; None if it did not."""
    give_up = time.monotonic() + _ENDED_WITHIN_S
    while time.monotonic() < give_up:
        job = house.job(id)
        if job.state.ended:
            return job
        time.sleep(0.05)
    return None


def judge(house: House, id: str, expected: JobState, contents: set[str]) -> Verdict:
    """Look at a job that should have ended, and at all that it left.

    Args:
        house: where; all parts run again.
        id: the job's.
        expected: the state that it must be in.
        contents: of the images of an embedding, sha256; empty for other jobs.
    """
    lost, doubled, other = [], [], []
    job = house.job(id)
    if job.state is not expected:
        lost.append(f"is {job.state}, not {expected}: {job.error}")
    other += _history(job)
    if isinstance(job.spec, TrainSpec):
        made = [manifest for manifest in house.models.get(job.spec.model_id).versions if manifest.job == id]
        wanted = int(job.state is JobState.SUCCEEDED)
        if len(made) > wanted:
            doubled.append(f"{len(made)} versions instead of {wanted}")
        if len(made) < wanted:
            lost.append("succeeded, but there is no version")
        for manifest in made:
            folder = house.models.folder(manifest.model, manifest.version)
            other += [
                f"{manifest.name}: {name} is damaged"
                for name, expected_hash in manifest.sha256.items()
                if bundle.sha256(folder / name) != expected_hash
            ]
    if isinstance(job.spec, EmbedSpec):
        wanted_points = contents if job.state is JobState.SUCCEEDED else set()
        model = job.spec.model
        _settled(lambda: sorted(indexed(house, model) ^ wanted_points))
        there = indexed(house, model)
        if missing := wanted_points - there:
            lost.append(f"{len(missing)} points are missing")
        if extra := there - wanted_points:
            doubled.append(f"{len(extra)} points too many")
        if job.result is not None and job.result.indexed_images != len(contents):
            other.append(f"it tells of {job.result.indexed_images} points, there are {len(contents)}")
    for what, look in _LEFT.items():
        if left := _settled(lambda look=look: look(house)):  # type: ignore[misc]
            other.append(f"{what}: {left}")
    return Verdict(tuple(lost), tuple(doubled), tuple(other))


def indexed(house: House, model: str) -> set[str]:
    """The contents in a version's collection, published or not; the empty set if it is not there."""
    ref = ModelRef.parse(model)
    client = house.qdrant_client
    name = f"blemish.{ref.model}.{ref.version}"
    if not client.collection_exists(name):
        return set()
    contents: set[str] = set()
    offset = None
    while True:  # strict mode allows no page of everything
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
        wrong.append(f"attempts went {attempts}")
    return wrong


def _leases(house: House) -> list[str]:
    with redis.Redis.from_url(house.redis_url) as client:
        return [key.decode() for key in client.scan_iter("blemish:lease:*")]


def _staged(house: House) -> list[str]:
    return [str(folder) for folders in house.models.staged_folders().values() for folder in folders]


def _checkpoints(house: House) -> list[str]:
    folder = house.store_folder / "checkpoints"
    return [each.name for each in folder.iterdir()] if folder.is_dir() else []


def _orphans(house: House) -> list[str]:
    """Children of nobody, or more than one of a worker that has one slot."""
    workers = {worker.pid for worker in house.workers if worker.alive}
    parents = [child.ppid() for child in house.children()]
    wrong = [f"a child of {parent}" for parent in parents if parent not in workers]
    return wrong + [f"two of {parent}" for parent in set(parents) if parents.count(parent) > 1]


def _open(house: House) -> list[str]:
    return [job.id for job in house.jobs.unfinished()]


_LEFT: dict[str, Callable[[House], list[str]]] = {
    "lease left": _leases,
    "staging folder left": _staged,
    "checkpoint left": _checkpoints,
    "orphan process": _orphans,
    "unfinished job": _open,
}


def _settled(look: Callable[[], list[str]]) -> list[str]:
    """What is still found after a while."""
    give_up = time.monotonic() + _SETTLED_WITHIN_S
    while (found := look()) and time.monotonic() < give_up:
        time.sleep(0.2)
    return found
