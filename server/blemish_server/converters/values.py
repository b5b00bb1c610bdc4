# SPDX-License-Identifier: Apache-2.0
"""Values that several services of the contract share."""

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1 import image_pb2


def verdict_to_proto(is_anomalous: bool) -> image_pb2.Verdict.ValueType:
    return image_pb2.VERDICT_ANOMALOUS if is_anomalous else image_pb2.VERDICT_NORMAL


def timestamp_to_proto(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration_to_proto(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
