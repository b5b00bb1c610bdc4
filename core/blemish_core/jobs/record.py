# SPDX-License-Identifier: Apache-2.0
"""The record of a job: its specification, progress, result and allowed state transitions."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE
from blemish_core.evaluation.metrics import Metrics
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.models.promotion import CalibrationChoice

REQUESTED_BY = "requested by "
"""Start of the reason of a job's first event, followed by the name of the caller."""


class JobState(StrEnum):
    """The states of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if no transition leads out of this state."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    # RUNNING to RUNNING: a new attempt after the process of the previous one died.
    # RUNNING to QUEUED: requeued by a worker that is shutting down.
    JobState.RUNNING: frozenset(
        {JobState.RUNNING, JobState.QUEUED, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}
    ),
    # A job that completes before it notices the cancellation keeps its result.
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class JobPriority(StrEnum):
    """The priorities of queued jobs; within one priority the oldest job runs first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class _StoredModel(BaseModel):
    # Keep fields written by a newer build when an older one changes the record.
    model_config = ConfigDict(frozen=True, extra="allow")


class PatchCoreSpec(_StoredModel):
    """The requested PatchCore settings; None takes the default."""

    backbone: str | None = None
    input_size: int | None = None
    smallest_defect: float | None = None
    coreset_ratio: float | None = None
    max_entries: int | None = None
    neighbors: int | None = None
    whitened: bool | None = None
    int8: bool | None = None
    """Switch for publishing an INT8 network in the bundle; None follows the worker's runtime."""


class EfficientAdSpec(_StoredModel):
    """The requested EfficientAD settings; None takes the default."""

    size: str | None = None
    input_size: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None
    start: str | None = None
    int8: bool | None = None
    """Switch for publishing an INT8 network in the bundle; None follows the worker's runtime."""


class TrainSpec(_StoredModel):
    """The specification of a training job."""

    kind: Literal["train"] = "train"
    dataset: str
    model_id: str
    patchcore: PatchCoreSpec | None = None
    efficientad: EfficientAdSpec | None = None
    """Settings of EfficientAD; excludes ``patchcore``, which is the default detector."""
    seed: int = 0
    target_false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE
    promote: bool = False
    promoted_calibration: CalibrationChoice = CalibrationChoice.UNSPECIFIED
    """Calibration by which the version judges if it is promoted."""
    false_alarms_of: str = ""
    """Model whose false alarms and images labelled good are trained on too; empty for none."""
    mask: MaskSummary | None = None
    """Pixels to look at; the file is in the model store. None for all pixels."""

    @property
    def detector(self) -> str:
        """Name of the detector to train."""
        return "efficientad" if self.efficientad is not None else "patchcore"

    @property
    def settings(self) -> dict[str, Any]:
        """Explicitly requested settings of the detector."""
        return self._chosen.model_dump(exclude_none=True, exclude={"int8"})

    @property
    def int8(self) -> bool | None:
        """Requested INT8 switch; None if the request leaves it open."""
        return self._chosen.int8

    @property
    def _chosen(self) -> PatchCoreSpec | EfficientAdSpec:
        return self.efficientad or self.patchcore or PatchCoreSpec()


class EmbedSpec(_StoredModel):
    """The specification of a bulk embedding job."""

    kind: Literal["embed"] = "embed"
    model: str
    """Model version, ``models/{model}/versions/{n}``."""
    dataset: str = ""
    kept_frames: bool = False
    """Switch for embedding the model's stored frames instead of a dataset."""


class EvaluateSpec(_StoredModel):
    """The specification of an evaluation job."""

    kind: Literal["evaluate"] = "evaluate"
    model: str
    """Model version, ``models/{model}/versions/{n}``."""
    dataset: str


Spec = Annotated[TrainSpec | EmbedSpec | EvaluateSpec, Field(discriminator="kind")]


def pattern_of(spec: Spec) -> str:
    """Return the key of jobs whose phases take similar shares of the total time."""
    return f"train {spec.detector}" if isinstance(spec, TrainSpec) else spec.kind


class Phase(_StoredModel):
    """The progress of one phase of an attempt."""

    name: str
    done: int = 0
    total: int = 0
    """Number of units in the phase; 0 while unknown."""
    unit: str = ""
    remaining_s: float | None = None
    """Estimated time left, in seconds; None while unknown."""
    seconds: float = 0.0
    """Time spent so far, in seconds."""

    @property
    def rate(self) -> float:
        """Throughput in units per second; 0 while unknown."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Limits(_StoredModel):
    """The resource limits of one attempt; 0 leaves only the worker's own limit."""

    max_seconds: float = 0.0
    max_bytes: int = 0
    """Resident memory of the child process, in bytes."""


class ProgressEstimate(_StoredModel):
    """The progress of a whole job."""

    done: float
    """Elapsed share of the total time, 0 to 1."""
    remaining_s: float
    weights: Mapping[str, float]
    """Share of each phase in the total time."""


class Result(_StoredModel):
    """The result of a job that succeeded."""

    model_version: str = ""
    metrics: Metrics | None = None
    indexed_images: int = 0


class Event(_StoredModel):
    """A state transition of a job."""

    to: JobState
    at: datetime
    attempt: int = 0
    """Number of the attempt that caused it; 0 before the first."""
    worker: str = ""
    """Process that caused it, ``host:pid``; empty for the server."""
    why: str = ""


class Job(_StoredModel):
    """A job's record."""

    id: str
    spec: Spec
    priority: JobPriority = JobPriority.NORMAL
    limits: Limits = Limits()
    request: str = ""
    """SHA-256 of the request id that created it; empty if there was none."""
    state: JobState = JobState.QUEUED
    phases: tuple[Phase, ...] = ()
    created: datetime
    started: datetime | None = None
    """Start of the latest attempt."""
    ended: datetime | None = None
    expected: Mapping[str, float] = {}
    """Seconds per phase of the last job with the same pattern; empty before the first."""
    attempt: int = 0
    deaths: int = 0
    """Number of attempts that ended because the child process or its worker died."""
    committed: bool = False
    """True once the result is being published, which is too late for a cancellation."""
    parts: int = 0
    """Number of shards of a bulk embedding; 0 before it is divided."""
    revision: int = 1
    error: str = ""
    warnings: tuple[str, ...] = ()
    plan: str = ""
    """Choices of a training and their cost, empty until it begins."""
    result: Result | None = None
    history: tuple[Event, ...] = ()
    """All state transitions, oldest first; short, because attempts are limited."""

    @property
    def requested_by(self) -> str:
        """Name of the caller that created it, empty without authentication."""
        reason = self.history[0].why if self.history else ""
        return reason.removeprefix(REQUESTED_BY) if reason.startswith(REQUESTED_BY) else ""

    @property
    def pattern(self) -> str:
        """Key of jobs whose phases take similar shares of the total time."""
        return pattern_of(self.spec)

    @property
    def progress_estimate(self) -> ProgressEstimate | None:
        """Estimate from the measured rate and the phase durations of the previous job of this pattern.

        None unless the job runs and a previous job exists.
        """
        if self.state is not JobState.RUNNING or not self.expected:
            return None
        remaining = {phase.name: _remaining_s(phase) for phase in self.phases}
        # Scale the expected durations by the speed of this job relative to the previous one.
        known = [
            phase
            for phase in self.phases
            if phase.name in self.expected and remaining[phase.name] is not None
        ]
        expected_s = sum(self.expected[phase.name] for phase in known)
        actual_s = sum(phase.seconds + (remaining[phase.name] or 0.0) for phase in known)
        scale = actual_s / expected_s if expected_s > _MEASURABLE_S and actual_s > 0 else 1.0
        spent = {phase.name: phase.seconds for phase in self.phases}
        whole: dict[str, float] = {}
        for name in {**self.expected, **spent}:
            rest = remaining.get(name)
            if rest is None:
                rest = max(0.0, self.expected.get(name, 0.0) * scale - spent.get(name, 0.0))
            whole[name] = spent.get(name, 0.0) + rest
        total_s, spent_s = sum(whole.values()), sum(spent.values())
        if total_s <= 0:
            return None
        weights = {name: seconds / total_s for name, seconds in whole.items()}
        return ProgressEstimate(done=spent_s / total_s, remaining_s=total_s - spent_s, weights=weights)

    def with_state(self, to: JobState, *, worker: str = "", why: str = "", **changes: object) -> "Job":
        """Return the record in state ``to``, with the transition added to its history.

        Raises:
            ValueError: if the transition is not allowed.
        """
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"job {self.id} is {self.state} and cannot become {to}")
        if to.ended:
            changes = {"ended": now()} | changes
        moved = self.model_copy(update={"state": to} | changes)
        event = Event(to=to, at=now(), attempt=moved.attempt, worker=worker, why=why or moved.error)
        return moved.model_copy(update={"history": (*self.history, event)})

    def with_phase(self, phase: Phase) -> "Job":
        """Return the record with a phase added or replaced."""
        phases = {known.name: known for known in self.phases} | {phase.name: phase}
        return self.model_copy(update={"phases": tuple(phases.values())})


_MEASURABLE_S = 0.01


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def _remaining_s(phase: Phase) -> float | None:
    """Return the time left in a phase by its own rate; None while unknown."""
    if phase.total and phase.done >= phase.total:
        return 0.0
    return phase.remaining_s
