# SPDX-License-Identifier: Apache-2.0
"""Mapping of domain errors to gRPC statuses with google.rpc details.

https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
"""

from datetime import timedelta
from typing import NoReturn, Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from blemish.v1.inspection_pb2 import FrameRefusal
from blemish_core.platform import errors
from blemish_core.platform.errors import BlemishError

STATUS_OF_ERROR: dict[type[BlemishError], StatusCode] = {
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.InvalidImage: StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.ConfirmationNeeded: StatusCode.FAILED_PRECONDITION,
    errors.Conflict: StatusCode.ABORTED,
    errors.TooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.DiskFull: StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.LimitExceeded: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.ServerStopping: StatusCode.UNAVAILABLE,
    errors.Corrupt: StatusCode.DATA_LOSS,
    errors.RuntimesDisagree: StatusCode.FAILED_PRECONDITION,
    errors.JobCancelled: StatusCode.CANCELLED,
}

INTERNAL = "INTERNAL"
"""The reason of errors that are bugs."""
_DOMAIN = "blemish"
_MAX_MESSAGE_BYTES = 800
"""Longest message in UTF-8. It is sent three times in headers, encoded, and they may have 8 KiB in all."""
_END_BYTES = 200
"""Bytes at the end of a long message that are kept, because the remedy is there."""


class Aborting(Protocol):
    """The part of a servicer's context that aborts a call."""

    async def abort(
        self,
        code: StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, bytes], ...] = (),
    ) -> NoReturn: ...


def status_of(error: BlemishError) -> Status:
    """Return the status of an error: code, message and details."""
    code: int
    code, _ = STATUS_OF_ERROR[type(error)].value
    status = Status(code=code, message=message_of(error))
    for detail in _details(error):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def message_of(error: BlemishError) -> str:
    """Return the message of an error, shortened in the middle if it repeats a long part of a request."""
    message = str(error)
    data = message.encode(errors="replace")
    if len(data) <= _MAX_MESSAGE_BYTES:
        return message
    kept = data[: _MAX_MESSAGE_BYTES - _END_BYTES].decode(errors="ignore")
    return f"{kept}…{data[-_END_BYTES:].decode(errors='ignore')}"


async def abort(context: Aborting, error: BlemishError) -> NoReturn:
    """Abort a call with the status of an error."""
    await context.abort(
        STATUS_OF_ERROR[type(error)],
        message_of(error),
        (("grpc-status-details-bin", status_of(error).SerializeToString()),),
    )


def frame_refusal(error: Exception) -> FrameRefusal:
    """Return an error as the response to one frame of a stream that continues.

    The details of an internal error stay in the log.
    """
    code: int
    if not isinstance(error, BlemishError):
        code, _ = StatusCode.INTERNAL.value
        return FrameRefusal(code=code, message="internal error; see the server's log", reason=INTERNAL)
    code, _ = STATUS_OF_ERROR[type(error)].value
    refusal = FrameRefusal(code=code, message=message_of(error), reason=error.reason)
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        refusal.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
    return refusal


def _details(error: BlemishError) -> list[Message]:
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=_DOMAIN)]
    if isinstance(error, errors.InvalidRequest) and error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=message_of(error))
        details.append(BadRequest(field_violations=[violation]))
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
        details.append(RetryInfo(retry_delay=delay))
    return details
