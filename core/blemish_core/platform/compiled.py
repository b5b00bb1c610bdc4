# SPDX-License-Identifier: Apache-2.0
"""Loops over arrays as machine code."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
import structlog
from numba.core.caching import FunctionCache

_Function = TypeVar("_Function", bound=Callable[..., Any])

log = structlog.get_logger(__name__)


def compiled(function: _Function) -> _Function:
    """Have numba compile ``function`` at its first call, to run without Python's lock.

    Sums may be added up in any order and products fused with them; infinity and NaN stay what they are.
    The code is kept beside the source or among the user's caches, where one of them can be written to;
    elsewhere every process compiles anew, a second or two.
    """
    made: Any = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})(function)
    with suppress(RuntimeError):  # nowhere to keep it
        made._cache = _Kept(function)  # type: ignore[no-untyped-call]  # as enable_caching() has it
    return cast("_Function", made)


class _Kept(FunctionCache):
    """What numba keeps, except that a full disk or a file cut off costs a compilation and fails no call."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # what unpickling damaged files raises can be anything
            log.warning("compiled code cannot be read, compiling anew", error=repr(error))
            self._attempt(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._attempt(super().save_overload, sig, data)

    @staticmethod
    def _attempt(write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except OSError as error:
            log.warning("compiled code cannot be kept", error=str(error))
