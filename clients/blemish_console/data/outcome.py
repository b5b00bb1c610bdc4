# SPDX-License-Identifier: Apache-2.0
"""Results of calls of which some may fail while the others go on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from blemish_client.errors import BlemishError, Unauthenticated

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class CallOutcome(Generic[_Value]):
    """A value, or the error in its place."""

    value: _Value | None = None
    error: BlemishError | None = None


def attempt(read: Callable[[], _Value]) -> CallOutcome[_Value]:
    """Return the result of ``read`` or its error.

    Raises:
        Unauthenticated: if the token was rejected, because that concerns all calls.
    """
    try:
        return CallOutcome(read())
    except Unauthenticated:
        raise
    except BlemishError as error:
        return CallOutcome(error=error)
