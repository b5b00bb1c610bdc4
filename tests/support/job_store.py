# SPDX-License-Identifier: Apache-2.0
"""A job store in memory."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from blemish_core.jobs.record import EmbedSpec, Job, JobState, Spec, TrainSpec, now
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import NotFound, Unavailable

TRAIN = TrainSpec(dataset="tile", model_id="tile")
EMBED = EmbedSpec(model="models/tile/versions/1", dataset="tile")


class FakeJobStore(JobStore):
    """A store whose records live in memory.

    ``unavailable`` makes every call raise Unavailable, and ``claimed_by_others`` rejects every claim.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, str] = {}
        self.log: list[str] = []
        self.shards: dict[str, dict[str, int]] = {}
        self.claims: set[str] = set()
        self.deleted_before: datetime | None = None
        self.unavailable = False
        self.claimed_by_others = False

    def add(self, spec: Spec, state: JobState = JobState.QUEUED, **fields: Any) -> Job:
        """Add a job in any state."""
        id = fields.pop("id", f"job{len(self.jobs)}")
        self.jobs[id] = job = Job(id=id, spec=spec, state=state, created=now(), **fields)
        return job

    def ping(self) -> None:
        if self.unavailable:
            raise Unavailable("Redis does not answer", dependency="redis")

    def get(self, id: str) -> Job:
        self.ping()
        if id not in self.jobs:
            raise NotFound(id)
        return self.jobs[id]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        before = self.get(id)
        after = change(before)
        if after != before:
            self.jobs[id] = after = after.model_copy(update={"revision": before.revision + 1})
        return after

    def unfinished(self) -> list[Job]:
        self.ping()
        return [job for job in self.jobs.values() if not job.state.ended]

    def acquire_lease(self, name: str, holder: str) -> bool:
        self.ping()
        return self.leases.setdefault(name, holder) == holder

    def release_lease(self, name: str, holder: str) -> None:
        self.ping()
        self.leases.pop(name, None)

    def are_leased(self, names: Sequence[str]) -> list[bool]:
        self.ping()
        return [name in self.leases for name in names]

    def append_log(self, id: str, lines: Iterable[str]) -> None:
        self.ping()
        self.log += lines

    def phase_seconds(self, pattern: str) -> dict[str, float]:
        return {}

    def save_phase_seconds(self, job: Job) -> None: ...

    def shard_counts(self, id: str) -> dict[str, int]:
        return dict(self.shards.get(id, {}))

    def set_shard_count(self, id: str, field: str, count: int) -> None:
        self.shards.setdefault(id, {})[field] = count

    def increment_shard_count(self, id: str, field: str) -> int:
        count = self.shard_counts(id).get(field, 0) + 1
        self.set_shard_count(id, field, count)
        return count

    def claim(self, name: str, for_s: float) -> bool:
        if self.claimed_by_others or name in self.claims:
            return False
        self.claims.add(name)
        return True

    def delete_ended(self, ended_before: datetime) -> list[str]:
        self.deleted_before = ended_before
        return []
