# SPDX-License-Identifier: Apache-2.0
"""A job's record: what is to be done, how far it is, how it ended, and the moves it may make."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE
from blemish_core.metrics import Metrics


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return not MOVES[self]


MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    # RUNNING to RUNNING: tried again after the process that worked on it died.
    # RUNNING to QUEUED: handed back by a worker that was told to stop.
    JobState.RUNNING: frozenset(
        {JobState.RUNNING, JobState.QUEUED, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}
    ),
    # What was done before the cancellation was noticed stays done.
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class JobPriority(StrEnum):
    """Who is taken first of the jobs that wait for the same workers; of the same priority the oldest is."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class _Record(BaseModel):
    # What a newer build wrote outlives the changes that an older one makes.
    model_config = ConfigDict(frozen=True, extra="allow")


class PatchCoreSpec(_Record):
    """Settings of the detector; empty ones take its defaults."""

    backbone: str | None = None
    input_size: int | None = None
    coreset_ratio: float | None = None
    neighbors: int | None = None


class EfficientAdSpec(_Record):
    """Settings of the detector; empty ones take its defaults."""

    size: str | None = None
    input_size: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None
    start: str | None = None
    int8: bool | None = None
    """Of the bundle, not of the detector: whether to publish INT8 too; as the worker's runtime if empty."""


class TrainSpec(_Record):
    kind: Literal["train"] = "train"
    dataset: str
    model_id: str
    patchcore: PatchCoreSpec | None = None
    efficientad: EfficientAdSpec | None = None
    """At most one of the two is set; PatchCore if none is."""
    seed: int = 0
    target_false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE
    promote: bool = False

    @property
    def detector(self) -> str:
        return "efficientad" if self.efficientad is not None else "patchcore"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the detector that were asked for."""
        chosen = self.efficientad or self.patchcore or PatchCoreSpec()
        return chosen.model_dump(exclude_none=True, exclude={"int8"})

    @property
    def int8(self) -> bool | None:
        """Whether INT8 was asked for; None where nothing was said."""
        return self.efficientad.int8 if self.efficientad is not None else False


class EmbedSpec(_Record):
    kind: Literal["embed"] = "embed"
    model: str
    """The fixed version, models/{model}/versions/{n}."""
    dataset: str


class EvaluateSpec(_Record):
    kind: Literal["evaluate"] = "evaluate"
    model: str
    """The fixed version, models/{model}/versions/{n}."""
    dataset: str


Spec = Annotated[TrainSpec | EmbedSpec | EvaluateSpec, Field(discriminator="kind")]


class Phase(_Record):
    """A stretch of the work; ``total`` is 0 while not known."""

    name: str
    done: int = 0
    total: int = 0
    unit: str = ""
    remaining_s: float | None = None
    """At the pace so far; None while that is not known."""


class Limits(_Record):
    """What one attempt at a job may take; 0 where only the worker's own limits hold."""

    max_seconds: float = 0.0
    max_bytes: int = 0
    """Resident memory of the process that works on it."""


class Result(_Record):
    """What a job that succeeded made."""

    model_version: str = ""
    metrics: Metrics | None = None
    indexed_images: int = 0


class Event(_Record):
    """A move of a job."""

    to: JobState
    at: datetime
    attempt: int = 0
    """The one that moved it, or 0 before the first."""
    worker: str = ""
    """The process that moved it, host:pid; empty where the server did."""
    why: str = ""


class Job(_Record):
    id: str
    spec: Spec
    priority: JobPriority = JobPriority.NORMAL
    limits: Limits = Limits()
    request: str = ""
    """SHA-256 of the request_id that made it; empty if there was none."""
    state: JobState = JobState.QUEUED
    phases: tuple[Phase, ...] = ()
    created: datetime
    started: datetime | None = None
    """Of the latest attempt."""
    ended: datetime | None = None
    attempt: int = 0
    deaths: int = 0
    """Attempts that ended because the process that worked on it, or its worker, died."""
    committed: bool = False
    """Its effect is being made visible, or is: too late to cancel it."""
    parts: int = 0
    """Of a bulk embedding: into how many parts its images were divided; 0 before that."""
    revision: int = 1
    error: str = ""
    warnings: tuple[str, ...] = ()
    result: Result | None = None
    history: tuple[Event, ...] = ()
    """Every move since it was accepted; a few at most, for attempts are counted."""

    def moved(self, to: JobState, *, worker: str = "", why: str = "", **changes: object) -> "Job":
        """Return the record in state ``to``, with the move in its history.

        Raises:
            ValueError: if a job in this state may not go there.
        """
        if to not in MOVES[self.state]:
            raise ValueError(f"job {self.id} is {self.state} and cannot become {to}")
        if to.ended:
            changes = {"ended": now()} | changes
        moved = self.model_copy(update={"state": to} | changes)
        event = Event(to=to, at=now(), attempt=moved.attempt, worker=worker, why=why or moved.error)
        return moved.model_copy(update={"history": (*self.history, event)})

    def at(self, phase: Phase) -> "Job":
        """Return the record with one phase's progress replaced, or the phase added."""
        others = {known.name: known for known in self.phases} | {phase.name: phase}
        return self.model_copy(update={"phases": tuple(others.values())})


def now() -> datetime:
    return datetime.now(UTC)
