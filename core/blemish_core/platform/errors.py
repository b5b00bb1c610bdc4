# SPDX-License-Identifier: Apache-2.0
"""Errors the product can explain to its caller: the message says the cause and the cure.

BlemishError
├── InvalidRequest
│   └── InvalidImage
├── Unauthenticated
├── PermissionDenied
├── NotFound
├── AlreadyExists
├── FailedPrecondition
├── Conflict
├── TooLarge
├── DiskFull
├── Overloaded
│   └── DeadlineExceeded
├── Unavailable
│   └── ServerStopping
├── Corrupt
├── RuntimesDisagree
└── JobCancelled
"""

from typing import ClassVar


class BlemishError(Exception):
    """An error with a meaning for the caller; ``reason`` names it for programs."""

    reason: ClassVar[str] = "UNSPECIFIED"


class InvalidRequest(BlemishError):
    """Something in the request is malformed or out of range; ``field`` says what."""

    reason = "INVALID_REQUEST"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidImage(InvalidRequest):
    """The bytes are not an image, or not one within the limits."""

    reason = "INVALID_IMAGE"


class Unauthenticated(BlemishError):
    """The server does not know who calls."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(BlemishError):
    """The caller's role does not reach so far, or his urgency; the message names both."""

    reason = "DENIED"


class NotFound(BlemishError):
    """Nothing has this name."""

    reason = "NOT_FOUND"


class AlreadyExists(BlemishError):
    """The name is taken by something else."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(BlemishError):
    """The request is sound, but what it needs has to be brought first."""

    reason = "NOT_POSSIBLE_YET"


class Conflict(BlemishError):
    """The request was decided on what has changed since; the message names both revisions."""

    reason = "OUTDATED"


class TooLarge(BlemishError):
    """It would not fit a limit on memory; the message names the limit and its setting."""

    reason = "TOO_LARGE"


class DiskFull(BlemishError):
    """The store has no room left."""

    reason = "DISK_FULL"


class Overloaded(BlemishError):
    """A queue is full; retry after ``retry_after_s``."""

    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Overloaded):
    """The deadline cannot be kept, or has passed; nothing was computed."""

    reason = "TOO_LATE"


class Unavailable(BlemishError):
    """Something the server talks to does not answer; ``dependency`` names it."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, dependency: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.dependency = dependency
        self.retry_after_s = retry_after_s


class ServerStopping(Unavailable):
    """The server takes no new calls, for it is about to end."""

    reason = "ENDING"

    def __init__(self) -> None:
        super().__init__(
            "this server is ending; call another one, or again when it is back",
            dependency="server",
            retry_after_s=1.0,
        )


class Corrupt(BlemishError):
    """What the store holds is not what was written there."""

    reason = "CORRUPT"


class RuntimesDisagree(BlemishError):
    """Two engines that run the same network give different answers."""

    reason = "RUNTIMES_DISAGREE"


class JobCancelled(BlemishError):
    """The job was asked to end."""

    reason = "JOB_CANCELLED"
