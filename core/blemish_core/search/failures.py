# SPDX-License-Identifier: Apache-2.0
"""What Qdrant's refusals mean here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import RpcError, StatusCode
from qdrant_client.common.client_exceptions import QdrantException

from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef

# A caller who leaves cancels the coroutine that asks; as a status it is Qdrant's, stopped in the middle.
_AWAY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)

_KEPT_OUT = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)


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
        if _code(error) in _KEPT_OUT:
            raise Unavailable(
                f"Qdrant refuses: {error.details()}; check QDRANT_API_KEY", dependency="qdrant"
            ) from error
        if (wait_s := _to_wait_s(error)) is not None:
            raise Unavailable(
                f"Qdrant refuses: {error.details()}", dependency="qdrant", retry_after_s=wait_s
            ) from error
        raise
    except QdrantException as error:  # how its client says the like
        raise Unavailable(f"Qdrant refuses: {error}", dependency="qdrant") from error


def _missing(version: ModelRef, detail: str) -> NotFound:
    if "point" in detail.lower():
        return NotFound(f"the index of {version} has no such item any more: {detail}")
    fixed = f"{version.model}/{version.version}"
    return NotFound(f"{version} has no index yet; make one with `blemish index {fixed} DATASET`")


def _code(error: RpcError) -> StatusCode | None:
    code = getattr(error, "code", None)
    return code() if code else None


def _to_wait_s(error: RpcError) -> float | None:
    """How long Qdrant, which has too much to do, asks to be left alone; None if it does not.

    Without a time the code may also be grpc's own, for an answer that is too large: nothing to try again.
    """
    if _code(error) is not StatusCode.RESOURCE_EXHAUSTED:
        return None
    metadata: Any = error.trailing_metadata()  # of one kind from a thread, of another from an event loop
    wait = str(dict(metadata or ()).get("retry-after", ""))
    return float(wait) if wait.isdecimal() else None
