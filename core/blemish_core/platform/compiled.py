# SPDX-License-Identifier: Apache-2.0
"""Compilation of numeric loops with numba."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
import structlog
from numba.core.caching import FunctionCache

_Function = TypeVar("_Function", bound=Callable[..., Any])

log = structlog.get_logger(__name__)


def compiled(function: _Function) -> _Function:
    """Compile ``function`` at its first call; the compiled code runs without the GIL.

    Floating-point operations may be reordered and fused; infinity and NaN keep their meaning. The machine
    code is cached next to the source or in the user's cache directory. If neither is writable, each
    process compiles the function again, which takes a second or two.
    """
    dispatcher: Any = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})(function)
    with suppress(RuntimeError):  # no writable cache directory
        # The same assignment as in numba's enable_caching().
        dispatcher._cache = _TolerantCache(function)  # type: ignore[no-untyped-call]
    return cast("_Function", dispatcher)


class _TolerantCache(FunctionCache):
    """numba's cache, except that a full disk or a damaged file costs a compilation and fails no call."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # unpickling a damaged file can raise anything
            log.warning("compiled code unreadable, compiling again", error=repr(error))
            self._write(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._write(super().save_overload, sig, data)

    @staticmethod
    def _write(write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except OSError as error:
            log.warning("compiled code not cached", error=str(error))
