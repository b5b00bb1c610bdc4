# SPDX-License-Identifier: Apache-2.0
"""Choices and states as Python enums, whose members equal the numbers of the contract.

A number that a newer server sends may have no member: compare numbers with members, do not convert them.
"""

from enum import IntEnum

from blemish.v1 import image_pb2, inspection_pb2, job_pb2, search_pb2


class _Choice(IntEnum):
    """An enum that type checkers let compare with numbers of messages, because its equality is its own."""

    def __eq__(self, other: object) -> bool:
        return int(self) == other

    __hash__ = IntEnum.__hash__


class Verdict(_Choice):
    """A detector's decision about an image."""

    UNSPECIFIED = image_pb2.VERDICT_UNSPECIFIED
    NORMAL = image_pb2.VERDICT_NORMAL
    """The score is at or below the threshold."""
    ANOMALOUS = image_pb2.VERDICT_ANOMALOUS
    """The score is above the threshold."""


class Store(_Choice):
    """The scored images that the server keeps for search."""

    UNSPECIFIED = inspection_pb2.STORE_UNSPECIFIED
    NONE = inspection_pb2.STORE_NONE
    ANOMALOUS = inspection_pb2.STORE_ANOMALOUS
    ALL = inspection_pb2.STORE_ALL


class Priority(_Choice):
    """The scheduling priority among images that wait for the same model."""

    UNSPECIFIED = inspection_pb2.PRIORITY_UNSPECIFIED
    LINE_STOP = inspection_pb2.PRIORITY_LINE_STOP
    """A machine on the line acts on the verdict."""
    AUDIT = inspection_pb2.PRIORITY_AUDIT
    """A person or program waits for the result."""
    BACKFILL = inspection_pb2.PRIORITY_BACKFILL
    """Scored when no other image waits."""


class StreamPolicy(_Choice):
    """The handling of a frame that arrives while others of its stream are being scored."""

    UNSPECIFIED = inspection_pb2.STREAM_POLICY_UNSPECIFIED
    LATEST = inspection_pb2.STREAM_POLICY_LATEST
    """The frame replaces the one that waits, which is dropped."""
    BLOCK = inspection_pb2.STREAM_POLICY_BLOCK
    """The source is slowed down."""
    REJECT = inspection_pb2.STREAM_POLICY_REJECT
    """The frame is refused."""


class Consensus(_Choice):
    """The agreement of the nearest labelled items on a defect class, or the reason why it is unknown."""

    UNSPECIFIED = inspection_pb2.CONSENSUS_UNSPECIFIED
    UNANIMOUS = inspection_pb2.CONSENSUS_UNANIMOUS
    MAJORITY = inspection_pb2.CONSENSUS_MAJORITY
    DIVIDED = inspection_pb2.CONSENSUS_DIVIDED
    FALSE_ALARMS = inspection_pb2.CONSENSUS_FALSE_ALARMS
    DISTANT = inspection_pb2.CONSENSUS_DISTANT
    TOO_FEW_LABELS = inspection_pb2.CONSENSUS_TOO_FEW_LABELS
    UNAVAILABLE = inspection_pb2.CONSENSUS_UNAVAILABLE


class Label(_Choice):
    """A person's judgement of an indexed image."""

    UNSPECIFIED = search_pb2.LABEL_UNSPECIFIED
    NONE = search_pb2.LABEL_NONE
    """Removes the label."""
    CONFIRMED = search_pb2.LABEL_CONFIRMED
    """A defect."""
    FALSE_ALARM = search_pb2.LABEL_FALSE_ALARM
    """A good surface that the model scored as anomalous."""
    GOOD = search_pb2.LABEL_GOOD


class JobState(_Choice):
    """The state of a job."""

    UNSPECIFIED = job_pb2.JOB_STATE_UNSPECIFIED
    QUEUED = job_pb2.JOB_STATE_QUEUED
    RUNNING = job_pb2.JOB_STATE_RUNNING
    CANCELLING = job_pb2.JOB_STATE_CANCELLING
    SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
    FAILED = job_pb2.JOB_STATE_FAILED
    CANCELLED = job_pb2.JOB_STATE_CANCELLED


class JobPriority(_Choice):
    """The priority among jobs that wait for the same workers."""

    UNSPECIFIED = job_pb2.JOB_PRIORITY_UNSPECIFIED
    HIGH = job_pb2.JOB_PRIORITY_HIGH
    NORMAL = job_pb2.JOB_PRIORITY_NORMAL
    LOW = job_pb2.JOB_PRIORITY_LOW
