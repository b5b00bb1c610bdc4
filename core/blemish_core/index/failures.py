# SPDX-License-Identifier: Apache-2.0
"""What Qdrant's refusals mean here."""

from collections.abc import Iterator
from contextlib import contextmanager

from grpc import RpcError, StatusCode
from qdrant_client.common.client_exceptions import QdrantException

from blemish_core.errors import NotFound, Unavailable
from blemish_core.names import ModelRef

# Nobody here cancels a call to Qdrant: it does, where it is stopped in the middle of one.
_AWAY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)


@contextmanager
def no_index(version: ModelRef) -> Iterator[None]:
    """Turn what is not there into NotFound, with the cure."""
    try:
        yield
    except RpcError as error:
        if _code(error) is not StatusCode.NOT_FOUND:
            raise
        raise _missing(version, str(error.details())) from error
    except (ValueError, KeyError) as error:  # the in-memory client's way to say it
        if "not found" not in str(error):
            raise
        raise _missing(version, str(error)) from error


@contextmanager
def translated() -> Iterator[None]:
    """Qdrant's silence becomes Unavailable; what it objects to is our bug and stays as it is."""
    try:
        yield
    except RpcError as error:
        if _code(error) in _AWAY:
            raise Unavailable(
                "Qdrant does not answer: search and indexing wait until it is back; check QDRANT_URL "
                "and QDRANT_GRPC_PORT",
                dependency="qdrant",
            ) from error
        if _code(error) is StatusCode.RESOURCE_EXHAUSTED:
            raise Unavailable(f"Qdrant refuses: {error.details()}", dependency="qdrant") from error
        raise
    except QdrantException as error:  # how its client says that it is exhausted, and for how long
        raise Unavailable(f"Qdrant refuses: {error}", dependency="qdrant") from error


def _missing(version: ModelRef, detail: str) -> NotFound:
    if "point" in detail.lower():
        return NotFound(f"the index of {version} has no such item any more: {detail}")
    fixed = f"{version.model}/{version.version}"
    return NotFound(f"{version} has no index yet; make one with `blemish index {fixed} DATASET`")


def _code(error: RpcError) -> StatusCode | None:
    code = getattr(error, "code", None)
    return code() if code else None
