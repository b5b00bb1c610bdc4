# SPDX-License-Identifier: Apache-2.0
"""Errors of the embedded Qdrant.

A ``RequestRejected`` is reported to the client, an ``EngineFailed`` to the log, and a ``StoreUnusable`` to
the person who starts the process.
"""

import errno
import os


class RequestRejected(Exception):
    """A request that was not carried out and changed nothing."""


class BadRequest(RequestRejected):
    """A request that can never succeed in its present form."""


class Missing(RequestRejected):
    """A request for a collection, alias or point that does not exist."""


class NameTaken(RequestRejected):
    """A request to create a name that exists."""


class NoSpace(RequestRejected):
    """A request for which the disk has no space."""

    def __init__(self) -> None:
        super().__init__(f"{os.strerror(errno.ENOSPC)}; free some on the disk of the embedded Qdrant")


class Unsupported(RequestRejected):
    """A request for a feature that only a Qdrant server has."""

    def __init__(self, feature: str) -> None:
        super().__init__(
            f"the embedded Qdrant does not support {feature}; set QDRANT_URL to a Qdrant server to use it"
        )


class EngineFailed(Exception):
    """A failure of the engine that the request did not cause."""


class StoreUnusable(Exception):
    """A directory that cannot be served."""
