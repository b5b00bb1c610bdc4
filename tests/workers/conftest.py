# SPDX-License-Identifier: Apache-2.0
"""Jobs in memory and children that say what they are told to, so that no test here opens a socket."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from blemish_core.jobs import messages
from blemish_core.jobs.messages import CommitGranted, Said, Step
from blemish_core.jobs.record import EmbedSpec, Job, JobState, Spec, TrainSpec, now
from blemish_core.platform.errors import NotFound, Unavailable
from blemish_workers.runner.child_process import ChildDied


class MemoryStore:
    """Of ``JobStore`` what the workers use; ``away`` has it not answer."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, str] = {}
        self.log: list[str] = []
        self.tallies: dict[str, dict[str, int]] = {}
        self.claims: set[str] = set()
        self.away = False

    def add(self, spec: Spec, state: JobState = JobState.QUEUED, **fields: Any) -> Job:
        job = Job(id=f"job{len(self.jobs)}", spec=spec, state=state, created=now(), **fields)
        self.jobs[job.id] = job
        return job

    def _ask(self) -> None:
        if self.away:
            raise Unavailable("Redis does not answer", dependency="redis")

    def ping(self) -> None:
        self._ask()

    def get(self, id: str) -> Job:
        self._ask()
        if id not in self.jobs:
            raise NotFound(id)
        return self.jobs[id]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        before = self.get(id)
        after = change(before)
        if after != before:
            self.jobs[id] = after = after.model_copy(update={"revision": before.revision + 1})
        return after

    def cancel(self, id: str) -> Job:
        return self.change(id, lambda job: job.with_state(JobState.CANCELLING))

    def unfinished(self) -> list[Job]:
        self._ask()
        return [job for job in self.jobs.values() if not job.state.ended]

    def acquire_lease(self, name: str, holder: str) -> bool:
        self._ask()
        return self.leases.setdefault(name, holder) == holder

    def release_lease(self, name: str, holder: str) -> None:
        self._ask()
        self.leases.pop(name, None)

    def are_leased(self, names: Sequence[str]) -> list[bool]:
        self._ask()
        return [name in self.leases for name in names]

    def append_log(self, id: str, lines: Iterable[str]) -> None:
        self._ask()
        self.log += lines

    def phase_seconds(self, pattern: str) -> dict[str, float]:
        return {}

    def save_phase_seconds(self, job: Job) -> None: ...

    def shard_counts(self, id: str) -> dict[str, int]:
        return dict(self.tallies.get(id, {}))

    def set_shard_count(self, id: str, field: str, count: int) -> None:
        self.tallies.setdefault(id, {})[field] = count

    def increment_shard_count(self, id: str, field: str) -> int:
        self.set_shard_count(id, field, self.shard_counts(id).get(field, 0) + 1)
        return self.shard_counts(id)[field]

    def claim(self, what: str, for_s: float) -> bool:
        new = what not in self.claims
        self.claims.add(what)
        return new


class FakeChild:
    """Says ``script``: messages, None for silence, a text for a death; a function happens meanwhile."""

    def __init__(self, script: Iterable[Said | str | Callable[[], object] | None]) -> None:
        self._script = iter(script)
        self.told: list[Step | CommitGranted] = []
        self.killed = False
        self.bytes = 100 << 20
        self.written = ["a line"]

    def tell(self, message: Step | CommitGranted) -> None:
        self.told.append(message)

    def next(self, timeout_s: float) -> Said | None:
        said = next(self._script, None)
        if isinstance(said, str):
            raise ChildDied(said)
        if callable(said):
            said()
            return None
        return said

    def lines(self) -> list[str]:
        taken, self.written = self.written, []
        return taken

    def memory_bytes(self) -> int:
        return self.bytes


class FakeSlot:
    """Has one child after the other."""

    def __init__(self, *scripts: Iterable[Any]) -> None:
        self._scripts = list(scripts)
        self._child: FakeChild | None = None
        self.ended = 0
        self.children: list[FakeChild] = []

    def child(self) -> FakeChild:
        if self._child is None:
            self._child = FakeChild(self._scripts.pop(0) if self._scripts else ())
            self.children.append(self._child)
        return self._child

    def close(self) -> None:
        self.ended += 1
        self._child = None

    def tidy(self) -> None: ...


TRAIN = TrainSpec(dataset="tile", model_id="tile")
EMBED = EmbedSpec(model="models/tile/versions/1", dataset="tile")
DONE = messages.Done()
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()
