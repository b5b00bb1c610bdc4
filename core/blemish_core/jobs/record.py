# SPDX-License-Identifier: Apache-2.0
"""A job's record: what is to be done, how far it is, how it ended, and the moves it may make."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE
from blemish_core.evaluation.metrics import Metrics


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
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
    whitened: bool | None = None


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
    false_alarms_of: str = ""
    """A model in whose index people labelled images that are good; empty for none."""

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
    dataset: str = ""
    kept_frames: bool = False
    """The frames that were kept of the model, instead of a dataset."""


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
    seconds: float = 0.0
    """That it has taken so far."""

    @property
    def rate(self) -> float:
        """Units a second; 0 while not known."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Limits(_Record):
    """What one attempt at a job may take; 0 where only the worker's own limits hold."""

    max_seconds: float = 0.0
    max_bytes: int = 0
    """Resident memory of the process that works on it."""


class ProgressEstimate(_Record):
    """How far a job is as a whole, and how long it will take."""

    done: float
    """Share of its time, 0 to 1."""
    remaining_s: float
    weights: Mapping[str, float]
    """Of each phase, its share of the whole time."""


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
    expected: Mapping[str, float] = {}
    """Seconds that each phase took the last job of this kind; empty until there was one."""
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

    @property
    def pattern(self) -> str:
        """Jobs of the same take about the same time for their phases, relative to each other."""
        return f"train {self.spec.detector}" if isinstance(self.spec, TrainSpec) else self.spec.kind

    @property
    def progress_estimate(self) -> ProgressEstimate | None:
        """How far it is, by its measured pace and the shares of time that phases had in a job before.

        None while it does not run, or there was no such job.
        """
        if self.state is not JobState.RUNNING or not self.expected:
            return None
        left = {phase.name: _left_s(phase) for phase in self.phases}
        # What was slower than then so far is taken to stay so.
        known = [
            phase for phase in self.phases if phase.name in self.expected and left[phase.name] is not None
        ]
        then_s = sum(self.expected[phase.name] for phase in known)
        now_s = sum(phase.seconds + (left[phase.name] or 0.0) for phase in known)
        scale = now_s / then_s if then_s > _MEASURABLE_S and now_s > 0 else 1.0
        spent = {phase.name: phase.seconds for phase in self.phases}
        whole: dict[str, float] = {}
        for name in {**self.expected, **spent}:
            rest = left.get(name)
            if rest is None:
                rest = max(0.0, self.expected.get(name, 0.0) * scale - spent.get(name, 0.0))
            whole[name] = spent.get(name, 0.0) + rest
        total_s, spent_s = sum(whole.values()), sum(spent.values())
        if total_s <= 0:
            return None
        weights = {name: seconds / total_s for name, seconds in whole.items()}
        return ProgressEstimate(done=spent_s / total_s, remaining_s=total_s - spent_s, weights=weights)

    def with_state(self, to: JobState, *, worker: str = "", why: str = "", **changes: object) -> "Job":
        """Return the record in state ``to``, with the move in its history.

        Raises:
            ValueError: if a job in this state may not go there.
        """
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"job {self.id} is {self.state} and cannot become {to}")
        if to.ended:
            changes = {"ended": now()} | changes
        moved = self.model_copy(update={"state": to} | changes)
        event = Event(to=to, at=now(), attempt=moved.attempt, worker=worker, why=why or moved.error)
        return moved.model_copy(update={"history": (*self.history, event)})

    def with_phase(self, phase: Phase) -> "Job":
        """Return the record with one phase's progress replaced, or the phase added."""
        others = {known.name: known for known in self.phases} | {phase.name: phase}
        return self.model_copy(update={"phases": tuple(others.values())})


_MEASURABLE_S = 0.01


def now() -> datetime:
    return datetime.now(UTC)


def _left_s(phase: Phase) -> float | None:
    """What a phase will still take at its own pace; None while that is not known."""
    if phase.total and phase.done >= phase.total:
        return 0.0
    return phase.remaining_s
