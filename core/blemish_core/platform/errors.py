# SPDX-License-Identifier: Apache-2.0
"""Errors that the caller can act on. Each message gives the cause and the remedy.

BlemishError
├── InvalidRequest
│   └── InvalidImage
├── Unauthenticated
├── PermissionDenied
├── NotFound
├── AlreadyExists
├── FailedPrecondition
│   └── ConfirmationNeeded
├── Conflict
├── TooLarge
├── DiskFull
├── Overloaded
│   ├── DeadlineExceeded
│   └── LimitExceeded
├── Unavailable
│   └── ServerStopping
├── Corrupt
├── RuntimesDisagree
└── JobCancelled
"""

from typing import ClassVar


class BlemishError(Exception):
    """An error with a meaning for the caller; ``reason`` is its machine-readable name."""

    reason: ClassVar[str] = "UNSPECIFIED"


class InvalidRequest(BlemishError):
    """A malformed or out-of-range part of a request; ``field`` is its path in the request."""

    reason = "INVALID_REQUEST"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidImage(InvalidRequest):
    """Bytes that are not an image within the limits."""

    reason = "INVALID_IMAGE"


class Unauthenticated(BlemishError):
    """A call without valid credentials."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(BlemishError):
    """A call or an urgency that the caller's role does not allow; the message names both."""

    reason = "DENIED"


class NotFound(BlemishError):
    """A resource that does not exist."""

    reason = "NOT_FOUND"


class AlreadyExists(BlemishError):
    """A name that another resource has."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(BlemishError):
    """A valid request that needs something else done or provided first."""

    reason = "NOT_POSSIBLE_YET"


class ConfirmationNeeded(FailedPrecondition):
    """A change that a person has to confirm; the message gives the reason."""

    reason = "CONFIRMATION_NEEDED"


class Conflict(BlemishError):
    """A change based on an outdated revision or label; the message names the one in force."""

    reason = "OUTDATED"


class TooLarge(BlemishError):
    """A request that exceeds a memory limit; the message names the limit and its setting."""

    reason = "TOO_LARGE"


class DiskFull(BlemishError):
    """A store without free disk space."""

    reason = "DISK_FULL"


class Overloaded(BlemishError):
    """A full queue; ``retry_after_s`` is the suggested delay before a retry, in seconds."""

    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Overloaded):
    """A deadline that has passed or cannot be met; nothing was computed."""

    reason = "TOO_LATE"


class LimitExceeded(Overloaded):
    """A limit of the caller in the access file; the message names it."""

    reason = "LIMIT_EXCEEDED"


class Unavailable(BlemishError):
    """A dependency that does not respond; ``dependency`` is its name."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, dependency: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.dependency = dependency
        self.retry_after_s = retry_after_s


class ServerStopping(Unavailable):
    """A call that reached the server during its shutdown."""

    reason = "ENDING"

    def __init__(self) -> None:
        super().__init__(
            "this server is shutting down; call another server, or retry after the restart",
            dependency="server",
            retry_after_s=1.0,
        )


class Corrupt(BlemishError):
    """Stored data that differs from what was written."""

    reason = "CORRUPT"


class RuntimesDisagree(BlemishError):
    """Two runtimes that give different results for the same network."""

    reason = "RUNTIMES_DISAGREE"


class JobCancelled(BlemishError):
    """A job that was cancelled."""

    reason = "JOB_CANCELLED"
