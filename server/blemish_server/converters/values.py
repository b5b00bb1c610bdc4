# SPDX-License-Identifier: Apache-2.0
"""Values that several services of the contract share."""

from collections.abc import Sized
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1 import image_pb2
from blemish_core.platform.errors import InvalidRequest

_MAX_DURATION_S = 315_576_000_000
"""Range of google.protobuf.Duration: ten thousand years."""


def verdict_to_proto(is_anomalous: bool) -> image_pb2.Verdict.ValueType:
    return image_pb2.VERDICT_ANOMALOUS if is_anomalous else image_pb2.VERDICT_NORMAL


def timestamp_to_proto(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def parse_duration(message: Duration, field: str) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidRequest: if it is out of the range of durations; the error names ``field``.
    """
    # ToTimedelta would fail on durations beyond the range of a timedelta.
    seconds = message.seconds + message.nanos / 1e9
    if not abs(seconds) <= _MAX_DURATION_S:
        name = field.rpartition(".")[2]
        raise InvalidRequest(
            f"{name} is {seconds:g} s; use at most {_MAX_DURATION_S} s, or leave it out", field=field
        )
    return seconds


def check_count(values: Sized, most: int, field: str) -> None:
    """Check the length of a repeated field, before its values are read.

    Raises:
        InvalidRequest: if there are more than ``most`` values.
    """
    if len(values) > most:
        raise InvalidRequest(f"{field} has {len(values)} values; send at most {most}", field=field)


def duration_to_proto(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
