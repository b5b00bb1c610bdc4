# SPDX-License-Identifier: Apache-2.0
"""Translation of Qdrant's errors to those of the domain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import RpcError, StatusCode
from qdrant_client.common.client_exceptions import QdrantException

from blemish_core.platform.disk import is_text_about_lack_of_space
from blemish_core.platform.errors import DiskFull, NotFound, Unavailable
from blemish_core.platform.names import ModelRef

# A client that disconnects cancels the call to Qdrant. Another request may share that call.
_UNREACHABLE = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)

_UNAUTHORIZED = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise Unavailable if Qdrant is unreachable, overloaded or rejects the API key.

    Raise DiskFull if its disk has no space.

    Other errors of Qdrant are bugs of the caller and pass unchanged.
    """
    try:
        yield
    except RpcError as error:
        if _code(error) in _UNREACHABLE:
            raise Unavailable(
                "Qdrant does not respond, so searches and indexing are paused; check QDRANT_URL and "
                "QDRANT_GRPC_PORT",
                dependency="qdrant",
            ) from error
        if _code(error) in _UNAUTHORIZED:
            raise Unavailable(
                f"Qdrant rejected the request: {error.details()}; check QDRANT_API_KEY", dependency="qdrant"
            ) from error
        if is_text_about_lack_of_space(str(error.details())):
            raise DiskFull("the disk of Qdrant is full; free some space there") from error
        if (wait_s := _retry_after_s(error)) is not None:
            raise Unavailable(
                f"Qdrant rejected the request: {error.details()}; retry in {wait_s:g} s",
                dependency="qdrant",
                retry_after_s=wait_s,
            ) from error
        raise
    except QdrantException as error:  # raised by Qdrant's client in place of a gRPC error
        raise Unavailable(
            f"Qdrant rejected the request: {error}; retry later", dependency="qdrant"
        ) from error


@contextmanager
def other_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable for every error, because something other than Qdrant may listen at its address."""
    try:
        yield
    except RpcError as error:
        code = _code(error)
        raise Unavailable(
            f"the service at Qdrant's address answered {code.name if code else error}; "
            "check QDRANT_URL and QDRANT_GRPC_PORT",
            dependency="qdrant",
        ) from error


@contextmanager
def missing_as_not_found(version: ModelRef) -> Iterator[None]:
    """Raise NotFound if the index of ``version``, or an item that a query names, does not exist."""
    try:
        yield
    except RpcError as error:
        if _code(error) is not StatusCode.NOT_FOUND:
            raise
        raise _not_found(version, str(error.details())) from error
    except (ValueError, KeyError) as error:  # from Qdrant's in-memory client
        if "not found" not in str(error):
            raise
        raise _not_found(version, str(error)) from error


def _not_found(version: ModelRef, detail: str) -> NotFound:
    if "point" in detail.lower():
        return NotFound(f"an item of the query is not in the index of {version}: {detail}; search again")
    fixed = f"{version.model}/{version.version}"
    return NotFound(f"{version} has no index yet; create one with `blemish index {fixed} DATASET`")


def _code(error: RpcError) -> StatusCode | None:
    code = getattr(error, "code", None)
    return code() if code else None


def _retry_after_s(error: RpcError) -> float | None:
    """Return the delay that an overloaded Qdrant requests, None if the error names none.

    RESOURCE_EXHAUSTED without a delay may come from gRPC for a response that is too large. Retrying that
    is pointless.
    """
    if _code(error) is not StatusCode.RESOURCE_EXHAUSTED:
        return None
    metadata: Any = error.trailing_metadata()  # its type differs between sync and async calls
    delay = str(dict(metadata or ()).get("retry-after", ""))
    return float(delay) if delay.isdecimal() else None
