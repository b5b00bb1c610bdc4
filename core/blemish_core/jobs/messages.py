# SPDX-License-Identifier: Apache-2.0
"""The protocol between a worker and its child process: JSON messages, one per line."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Result, TrainSpec

END_OF_STEP = "--- end of step ---"
"""Last line of a step on the child's standard error, written before its Done or Failed."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Train(_Message):
    """A request to train a model and publish a version of it."""

    type: Literal["train"] = "train"
    job: str
    spec: TrainSpec


class Evaluate(_Message):
    """A request to evaluate a model version and publish a report."""

    type: Literal["evaluate"] = "evaluate"
    job: str
    spec: EvaluateSpec


class Embed(_Message):
    """A request to embed the images of one shard."""

    type: Literal["embed"] = "embed"
    job: str
    spec: EmbedSpec
    shard: int
    """Number of the shard, from 0."""
    shards: int
    """Number of shards of the job."""


class CommitGranted(_Message):
    """The answer to ``CommitRequest``."""

    type: Literal["commit granted"] = "commit granted"


class Ready(_Message):
    """The child's first message: it accepts steps."""

    type: Literal["ready"] = "ready"
    device: str
    """Device that the child computes on."""


class Progressed(_Message):
    """The progress of a phase."""

    type: Literal["progressed"] = "progressed"
    phase: str
    done: int
    total: int
    unit: str


class Warned(_Message):
    """A warning for the job's owner."""

    type: Literal["warned"] = "warned"
    text: str


class Announced(_Message):
    """The plan of a step, before its work begins."""

    type: Literal["announced"] = "announced"
    plan: str


class CommitRequest(_Message):
    """A request to publish the result; the child waits for ``CommitGranted``."""

    type: Literal["commit request"] = "commit request"


class Done(_Message):
    """The successful end of a step."""

    type: Literal["done"] = "done"
    result: Result | None = None
    """Result of a training or evaluation."""
    points: int = 0
    """Number of points written by an embedding."""


class Failed(_Message):
    """The unsuccessful end of a step."""

    type: Literal["failed"] = "failed"
    error: str
    """Error message for the job's owner."""


Step = Train | Evaluate | Embed
"""A unit of work for the child."""

ToChild = Step | CommitGranted
FromChild = Ready | Progressed | Warned | Announced | CommitRequest | Done | Failed

TO_CHILD: TypeAdapter[ToChild] = TypeAdapter(Annotated[ToChild, Field(discriminator="type")])
FROM_CHILD: TypeAdapter[FromChild] = TypeAdapter(Annotated[FromChild, Field(discriminator="type")])
