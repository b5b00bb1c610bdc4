# SPDX-License-Identifier: Apache-2.0
"""What the engine's exceptions mean: the only place that reads their texts.

``qdrant_edge`` raises ValueError for values it cannot parse, a bare Exception for whatever
else goes wrong, and pyo3's PanicException, no subclass of Exception, where its code panics.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from blemish_local.qdrant.errors import BadRequest, EngineFailed, Missing

_NO_POINT = "No point with id"
_CALLERS_FAULT = (
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
"""How the texts begin where the request is to blame."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Translate what calls of ``qdrant_edge`` raise; other exceptions pass.

    Raises:
        BadRequest: for a request that the engine refuses.
        Missing: for a point that is not there.
        EngineFailed: for everything else.
    """
    try:
        yield
    except ValueError as error:
        raise BadRequest(_sentence(error)) from error
    except BaseException as error:
        if type(error) is Exception:
            raise _meaning(error) from error
        if type(error).__name__ == "PanicException":
            raise EngineFailed(f"the engine panicked: {error}") from error
        raise


def _meaning(error: Exception) -> Exception:
    text = str(error)
    if text.startswith(_NO_POINT):
        return Missing(_sentence(error))
    if text.startswith(_CALLERS_FAULT):
        return BadRequest(_sentence(error))
    return EngineFailed(text)


def _sentence(error: Exception) -> str:
    return f"Qdrant's engine refuses: {error}"
