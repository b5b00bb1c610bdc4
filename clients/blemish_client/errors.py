# SPDX-License-Identifier: Apache-2.0
"""What a call can end with instead of an answer.

BlemishError
├── InvalidArgument       the request is malformed; ``field`` says where
├── Unauthenticated       the server does not know this caller: no token, or one it does not know
├── PermissionDenied      the caller's role does not reach so far
├── NotFound
├── AlreadyExists
├── FailedPrecondition    something has to be brought first
├── Aborted               somebody else changed it meanwhile; read it again
├── ResourceExhausted     a queue or disk is full, or something is too large
├── Unavailable           nobody answers, or the server cannot reach Redis or Qdrant
├── DeadlineExceeded      the answer did not come in the time allowed
└── InternalError         a fault of the server; its log has the details
"""

import re
from dataclasses import dataclass

import grpc
import grpc.aio

# What gRPC says of a handshake that failed, the cause last.
_HANDSHAKE = re.compile(r"(?:OPENSSL_internal:|handshake failed|(?=Hostname Verification))(.*)$")
# How it begins to say of a call that this side cancelled it.
_CANCELLED_HERE = ("Locally cancelled", "Channel closed")
_DETAILS_KEY = "grpc-status-details-bin"


class BlemishError(Exception):
    """A call failed: ``message`` tells a person, ``code`` and ``reason`` tell a program.

    ``reason`` is the server's word for the cause (``INVALID_IMAGE``, ``OVERLOADED``, ...),
    ``field`` the part of the request at fault, ``retry_after_s`` the time after which the server
    asks to be called again. They are empty or None where the server did not send them and where
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
    """The server does not know who calls."""


class PermissionDenied(BlemishError):
    """The caller's role does not reach so far."""


class NotFound(BlemishError):
    """Nothing has this name."""


class AlreadyExists(BlemishError):
    """The name is taken by something else."""


class FailedPrecondition(BlemishError):
    """The request is sound, but what it needs has to be brought first."""


class Aborted(BlemishError):
    """What the request was decided on has changed meanwhile; read it again and decide anew."""


class ResourceExhausted(BlemishError):
    """The server is full: its queue, its disk, or a limit on sizes."""


class Unavailable(BlemishError):
    """Nobody answers, or the server cannot reach what it needs; the same call may succeed later."""


class DeadlineExceeded(BlemishError):
    """The answer did not come in the time allowed."""


class InternalError(BlemishError):
    """A fault of the server."""


CLASSES: dict[grpc.StatusCode, type[BlemishError]] = {
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


def translated(error: grpc.RpcError, target: str) -> BlemishError:
    """Return what ``error`` of a call to ``target`` means; to be raised ``from`` it."""
    # What a call raises is a grpc.Call too; the type alone does not say so.
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return BlemishError(str(error), code=grpc.StatusCode.UNKNOWN)
    code, words = error.code(), error.details() or ""
    serialized = dict(error.trailing_metadata() or ()).get(_DETAILS_KEY)
    details = _read(serialized) if isinstance(serialized, bytes) else _Details()
    if serialized is None:
        if code is grpc.StatusCode.CANCELLED and not words.startswith(_CANCELLED_HERE):
            # So gRPC ends calls that a server has not taken yet when it stops; nobody here cancelled.
            code, words = grpc.StatusCode.UNAVAILABLE, "the server stopped before it answered"
        words = _without_the_server(code, words, target)
    return CLASSES[code](
        words or code.name.lower().replace("_", " "),
        code=code,
        reason=details.reason,
        field=details.field,
        retry_after_s=details.retry_after_s,
    )


def _without_the_server(code: grpc.StatusCode, words: str, target: str) -> str:
    """Say in a sentence what the transport found; it attaches no details, the server does."""
    if code is grpc.StatusCode.UNAVAILABLE:
        if handshake := _HANDSHAKE.search(words):
            return (
                f"{target} is not reached by TLS: {handshake[1].removesuffix(': OK').rstrip('.').lower()}"
            )
        cause = words.removesuffix(" ()").rstrip("]").rpartition(": ")[2] or "no reason given"
        return f"no server answers at {target}: {cause[:1].lower()}{cause[1:]}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not answer in the time allowed"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} does not know this call; is it a blemish server as new as this client?"
    return words


@dataclass(frozen=True)
class _Details:
    reason: str = ""
    field: str = ""
    retry_after_s: float | None = None


def _read(serialized: bytes) -> _Details:
    try:
        from google.rpc import error_details_pb2, status_pb2
    except ModuleNotFoundError:
        # The thin client goes without googleapis-common-protos.
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
