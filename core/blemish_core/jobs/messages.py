# SPDX-License-Identifier: Apache-2.0
"""What a worker and the child process that does its work say to each other, a line of JSON each."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Phase, Result, TrainSpec

END_OF_STEP = "--- end of step ---"
"""The child's last line about a step on its standard error, written before it says what became of it."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Train(_Message):
    """Do a training, up to its published version."""

    step: Literal["train"] = "train"
    job: str
    spec: TrainSpec


class Evaluate(_Message):
    """Do an evaluation, up to its published report."""

    step: Literal["evaluate"] = "evaluate"
    job: str
    spec: EvaluateSpec


class Embed(_Message):
    """Embed one part of a dataset's images."""

    step: Literal["embed"] = "embed"
    job: str
    spec: EmbedSpec
    part: int
    of: int


Step = Train | Evaluate | Embed


class CommitGranted(_Message):
    """The answer to ``CommitRequest``."""

    step: Literal["go"] = "go"


class Ready(_Message):
    """The child can take a step."""

    said: Literal["ready"] = "ready"
    device: str


class Reached(_Message):
    said: Literal["reached"] = "reached"
    phase: Phase


class Warned(_Message):
    said: Literal["warned"] = "warned"
    text: str


class CommitRequest(_Message):
    """The job's effect is about to become visible; the child waits for ``CommitGranted``."""

    said: Literal["may commit"] = "may commit"


class Done(_Message):
    """The step is done."""

    said: Literal["done"] = "done"
    result: Result | None = None
    """Of a training or an evaluation."""
    points: int = 0
    """Of an embedding: how many it wrote."""


class Failed(_Message):
    """The step could not be done."""

    said: Literal["failed"] = "failed"
    error: str
    """For the job's owner."""


Said = Ready | Reached | Warned | CommitRequest | Done | Failed

TO_CHILD: TypeAdapter[Step | CommitGranted] = TypeAdapter(
    Annotated[Train | Evaluate | Embed | CommitGranted, Field(discriminator="step")]
)
"""Reads what the worker tells its child."""

FROM_CHILD: TypeAdapter[Said] = TypeAdapter(
    Annotated[Ready | Reached | Warned | CommitRequest | Done | Failed, Field(discriminator="said")]
)
"""Reads what the child says."""
