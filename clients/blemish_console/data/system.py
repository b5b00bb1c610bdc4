# SPDX-License-Identifier: Apache-2.0
"""The state of the server, its workers, queues and indexes, and the latest calls."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1.audit_pb2 import AuditEntry
from blemish.v1.job_pb2 import Worker
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_client.types.enums import JobState
from blemish_console.data.outcome import CallOutcome, attempt

MAX_INDEXES = 50
"""Number of models whose indexes are counted."""
MAX_ENTRIES = 200
"""Number of audit entries that are read."""


@dataclass(frozen=True)
class Jobs:
    """Numbers of jobs that have not ended."""

    queued: int
    running: int


@dataclass(frozen=True)
class CallerActivity:
    """A caller by its latest calls in the audit log."""

    name: str
    changes: int
    failed: int
    last_action: str
    last_time: Timestamp


def read_workers(client: Client) -> CallOutcome[list[Worker]]:
    """Return the workers, or the error."""
    return attempt(client.workers)


def read_jobs(client: Client) -> CallOutcome[Jobs]:
    """Return the numbers of waiting and running jobs, or the error."""

    def count() -> Jobs:
        found = Counter(job.state for job in client.jobs(states=[JobState.QUEUED, JobState.RUNNING]))
        return Jobs(found[JobState.QUEUED.value], found[JobState.RUNNING.value])

    return attempt(count)


def read_index_sizes(client: Client) -> CallOutcome[dict[str, int]]:
    """Return the number of indexed images of each model with an index, or the error."""

    def count() -> dict[str, int]:
        sizes = {}
        for model in islice(client.models(), MAX_INDEXES):
            try:
                sizes[model.name] = client.count_items(model.name)
            except NotFound:  # it has no index yet
                continue
        return sizes

    return attempt(count)


def read_audit(client: Client) -> CallOutcome[list[AuditEntry]]:
    """Return the latest audit entries, the last one first, or the error."""
    return attempt(lambda: list(islice(client.audit_entries(), MAX_ENTRIES)))


def callers(entries: Iterable[AuditEntry]) -> list[CallerActivity]:
    """Return the callers of audit entries, the latest one first.

    Args:
        entries: the last one first.
    """
    found: dict[str, list[AuditEntry]] = {}
    for entry in entries:
        found.setdefault(entry.caller, []).append(entry)
    return [
        CallerActivity(
            name,
            len(own),
            sum(entry.code != 0 for entry in own),
            own[0].action,
            own[0].time,
        )
        for name, own in found.items()
    ]
