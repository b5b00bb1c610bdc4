# SPDX-License-Identifier: Apache-2.0
"""The choices of options, and the values of protobuf enums that they stand for."""

from enum import StrEnum
from typing import Protocol, TypeVar

_Value = TypeVar("_Value", bound=int)


class ProtoEnum(Protocol[_Value]):
    """A protobuf enum whose first value is unspecified."""

    def Name(self, number: _Value) -> str: ...  # noqa: N802

    def Value(self, name: str) -> _Value: ...  # noqa: N802

    def keys(self) -> list[str]: ...


def to_proto(enum: ProtoEnum[_Value], choice: StrEnum) -> _Value:
    """Return the value of a protobuf enum with the name of a choice: LINE_STOP for PRIORITY_LINE_STOP."""
    return enum.Value(_prefix(enum) + choice.name)


def spell(enum: ProtoEnum[_Value], value: _Value) -> str:
    """Return the spelling of a value on the command line: line-stop for PRIORITY_LINE_STOP."""
    return enum.Name(value).removeprefix(_prefix(enum)).replace("_", "-").lower()


def _prefix(enum: ProtoEnum[_Value]) -> str:
    return enum.keys()[0].removesuffix("UNSPECIFIED")


class PolicyChoice(StrEnum):
    """The choices of a stream's policy."""

    LATEST = "latest"
    BLOCK = "block"
    REJECT = "reject"


class PriorityChoice(StrEnum):
    """The choices of an image's priority."""

    LINE_STOP = "line-stop"
    AUDIT = "audit"
    BACKFILL = "backfill"


class StoreChoice(StrEnum):
    """The choices of the frames to keep for search."""

    NONE = "none"
    ANOMALOUS = "anomalous"
    ALL = "all"


class LabelChoice(StrEnum):
    """The choices of an item's label."""

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false-alarm"
    GOOD = "good"
    NONE = "none"


class ItemLabelChoice(StrEnum):
    """The choices of the labels by which items are listed."""

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false-alarm"
    GOOD = "good"
    UNLABELLED = "unlabelled"
    NONE = "none"
    """The same as ``unlabelled``, as filters and `blemish label` spell it."""


class VerdictChoice(StrEnum):
    """The choices of the verdict by which items are listed."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"


class SortChoice(StrEnum):
    """The choices of the order of a listing."""

    TIME = "time"
    SCORE = "score"


class ReviewOrderChoice(StrEnum):
    """The choices of the order of a review."""

    TIME = "time"
    SCORE = "score"
    LEAST_CERTAIN = "least-certain"


class SplitChoice(StrEnum):
    """The uses of a dataset's images."""

    TEST = "test"
    TRAIN = "train"


class JobStateChoice(StrEnum):
    """The choices of a job's state."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobPriorityChoice(StrEnum):
    """The choices of a job's priority."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
