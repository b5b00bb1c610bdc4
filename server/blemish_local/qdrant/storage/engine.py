# SPDX-License-Identifier: Apache-2.0
"""Translation of the engine's exceptions; the only place that reads their texts.

``qdrant_edge`` raises ValueError for values that it cannot parse and a bare Exception for other failures.
If its code panics, it raises pyo3's PanicException, which is not a subclass of Exception.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from blemish_local.qdrant.errors import BadRequest, EngineFailed, Missing

_NO_POINT = "No point with id"
_BAD_REQUEST = (
    "Vector dimension error",
    "Not existing vector name error",
    "Wrong usage of",
    "No range index",
    "No appropriate index",
    "Validation failed",
    "Payload type does not match",
    "Unable to infer type",
    "Expected",
)
"""Beginnings of the texts that blame the request."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Translate the exceptions of ``qdrant_edge``; others pass.

    Raises:
        BadRequest: for a request that the engine rejects.
        Missing: for a point that does not exist.
        EngineFailed: for everything else.
    """
    try:
        yield
    except ValueError as error:
        raise BadRequest(_reason(error)) from error
    except BaseException as error:
        if type(error) is Exception:
            raise _translated(error) from error
        if type(error).__name__ == "PanicException":
            raise EngineFailed(f"the engine panicked: {error}") from error
        raise


def _translated(error: Exception) -> Exception:
    text = str(error)
    if text.startswith(_NO_POINT):
        return Missing(_reason(error))
    if text.startswith(_BAD_REQUEST):
        return BadRequest(_reason(error))
    return EngineFailed(text)


def _reason(error: Exception) -> str:
    return f"Qdrant's engine rejected the request: {error}"
