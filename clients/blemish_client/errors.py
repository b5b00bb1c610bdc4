# SPDX-License-Identifier: Apache-2.0
"""Exceptions that calls raise.

BlemishError
├── InvalidArgument       the request is malformed; ``field`` names the part at fault
├── Unauthenticated       the call has no valid token
├── PermissionDenied      the caller's role is not sufficient
├── NotFound
├── AlreadyExists
├── FailedPrecondition    the request is valid, but a prerequisite is missing
├── Aborted               the resource was changed concurrently; read it again
├── ResourceExhausted     a queue or disk is full, or an input is too large
├── Unavailable           the server, Redis or Qdrant is unreachable
├── DeadlineExceeded      the answer did not arrive in time
└── InternalError         the server failed; its log has the details
"""

import re
from dataclasses import dataclass

import grpc
import grpc.aio

from blemish_client.transport.target import proxy_variable

__all__ = [
    "Aborted",
    "AlreadyExists",
    "BlemishError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InternalError",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
]

# gRPC's message for a failed TLS handshake. The cause comes last.
_HANDSHAKE = re.compile(r"(?:.*OPENSSL_internal:|handshake failed\W*|(?=Hostname Verification))(.*)$")
# gRPC's message for a message above the limit of one side.
_TOO_LARGE = re.compile(r"SERVER: (Sent|Received) message larger than max \((\d+) vs\. (\d+)\)")
# gRPC's message for a connection on which a ping or data was not acknowledged in time.
_SILENT = re.compile(r"(ping|keepalive) timeout|recvmsg:Connection timed out")
# Start of gRPC's message for a call that found no connection.
_NO_CONNECTION = "failed to connect to all addresses"
# Prefixes of gRPC's message for a call that this client cancelled.
_CANCELLED_HERE = ("Locally cancelled", "Channel closed")
_DETAILS_KEY = "grpc-status-details-bin"

TOO_LARGE = "TOO_LARGE"
"""Reason of errors of inputs and messages that exceed a size limit."""
CONFIRMATION_NEEDED = "CONFIRMATION_NEEDED"
"""Reason of errors of changes that a person has to confirm, such as a threshold that rejects all."""
UNREACHABLE = "cannot connect to"
"""Start of the message of an error without an answer from a server."""
TLS_FAILED = "TLS handshake failed"
"""Start of the message of an error of the TLS handshake."""
WITHOUT_TLS = "the server does not use TLS"
"""Cause of a handshake that failed because the server answered in plaintext."""
WRONG_NAME = "hostname verification check failed"
"""Cause of a handshake that failed because the certificate does not name the host."""


class BlemishError(Exception):
    """A failed call.

    ``message`` describes the failure for people. ``code`` and ``reason`` identify it for programs.
    ``reason`` is the server's identifier of the cause, such as ``INVALID_IMAGE`` or ``OVERLOADED``.
    ``field`` names the part of the request at fault. ``retry_after_s`` is the delay before a retry, in
    seconds. All three are empty or None if the server did not send them, or if
    googleapis-common-protos is not installed.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidArgument(BlemishError):
    """The request is malformed or out of range, or the bytes are not an image."""


class Unauthenticated(BlemishError):
    """The call has no token, or one that is not valid."""


class PermissionDenied(BlemishError):
    """The caller's role is not sufficient for this call."""


class NotFound(BlemishError):
    """The named resource does not exist."""


class AlreadyExists(BlemishError):
    """The name is already taken."""


class FailedPrecondition(BlemishError):
    """The request is valid, but a prerequisite is missing."""


class Aborted(BlemishError):
    """The resource was changed concurrently. Read it again before retrying."""


class ResourceExhausted(BlemishError):
    """A queue or disk of the server is full, or an input exceeds a size limit."""


class Unavailable(BlemishError):
    """The server, or a service that it depends on, is unreachable. The same call may succeed later."""


class DeadlineExceeded(BlemishError):
    """The answer did not arrive in time."""


class InternalError(BlemishError):
    """The server failed. Its log has the details."""


ERROR_BY_CODE: dict[grpc.StatusCode, type[BlemishError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.CANCELLED: BlemishError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: BlemishError,
}


def translate_error(error: grpc.RpcError, target: str) -> BlemishError:
    """Return the exception for an error of a call to ``target``, to be raised from it."""
    # Calls raise errors that are also a grpc.Call, although their type does not show it.
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return BlemishError(str(error), code=grpc.StatusCode.UNKNOWN)
    code, message = error.code(), error.details() or ""
    serialized = dict(error.trailing_metadata() or ()).get(_DETAILS_KEY)
    details = _parse_details(serialized) if isinstance(serialized, bytes) else _Details()
    if serialized is None:
        if code is grpc.StatusCode.CANCELLED and not message.startswith(_CANCELLED_HERE):
            # gRPC cancels calls that a stopping server has not accepted yet.
            code, message = grpc.StatusCode.UNAVAILABLE, "the server stopped before it answered"
        if too_large := _TOO_LARGE.search(message):
            details, message = _Details(reason=TOO_LARGE), _size_message(*too_large.groups())
        message = _transport_message(code, message, target)
    return ERROR_BY_CODE[code](
        message or code.name.lower().replace("_", " "),
        code=code,
        reason=details.reason,
        field=details.field,
        retry_after_s=details.retry_after_s,
    )


def _size_message(direction: str, size: str, limit: str) -> str:
    """Return the message for a request or response that is larger than the server allows."""
    what, remedy = (
        ("request", "send a smaller image")
        if direction == "Received"
        else ("response", "request fewer outputs")
    )
    setting = "BLEMISH_MAX_MESSAGE_BYTES of the server"
    return f"the {what} has {size} bytes, more than the {limit} that {setting} allows; {remedy}"


def _transport_message(code: grpc.StatusCode, message: str, target: str) -> str:
    """Return the message for an error that gRPC itself reports, without an answer from the server."""
    if code is grpc.StatusCode.UNAVAILABLE:
        if handshake := _HANDSHAKE.search(message):
            cause = handshake[1].removesuffix(": OK").rstrip(".").lower().replace("_", " ")
            if cause.startswith("wrong version number"):
                return f"{TLS_FAILED} with {target}: {WITHOUT_TLS}; connect without TLS"
            return f"{TLS_FAILED} with {target}: {cause}"
        if _SILENT.search(message):
            return f"the connection to {target} was lost, because the link is silent; check the network"
        cause = message.removesuffix(" ()").rstrip("]").rpartition(": ")[2] or "no reason given"
        if cause == "Socket closed" and message.startswith(_NO_CONNECTION):
            cause = "it closed the connection, as a server with TLS does if the client has none"
        return f"{UNREACHABLE} {target}: {cause[:1].lower()}{cause[1:]}{_proxy_hint(target)}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not answer in time"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} does not implement this call; check that it is a blemish server of this version"
    return message


def _proxy_hint(target: str) -> str:
    if not (variable := proxy_variable(target)):
        return ""
    return f"; the connection took the proxy of {variable}, add the host to no_proxy to connect directly"


@dataclass(frozen=True)
class _Details:
    """The machine-readable part of an error."""

    reason: str = ""
    field: str = ""
    retry_after_s: float | None = None


def _parse_details(serialized: bytes) -> _Details:
    try:
        from google.rpc import error_details_pb2, status_pb2
    except ModuleNotFoundError:
        # The minimal installation does not include googleapis-common-protos.
        return _Details()
    reason, field, retry_after_s = "", "", None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    request = error_details_pb2.BadRequest()
    for packed in status_pb2.Status.FromString(serialized).details:
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif packed.Unpack(request) and request.field_violations:
            field = request.field_violations[0].field
    return _Details(reason, field, retry_after_s)
