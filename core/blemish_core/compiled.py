# SPDX-License-Identifier: Apache-2.0
"""Loops over arrays as machine code."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Have numba compile ``function`` at its first call, to run without Python's lock.

    Sums may be added up in any order and products fused with them; infinity and NaN stay what they are.
    The code is kept beside the source or among the user's caches, where one of them can be written to;
    elsewhere every process compiles anew, a second or two.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        made = numba.njit(**options)(function)
    return cast("_Function", made)
