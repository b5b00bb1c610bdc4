# SPDX-License-Identifier: Apache-2.0
"""Retries while Redis or Qdrant is unavailable."""

import time
from collections.abc import Callable
from typing import TypeVar

from blemish_core.platform.errors import Unavailable

DEFAULT_TIMEOUT_S = 60.0
INTERVAL_S = 1.0
_Value = TypeVar("_Value")


def retry_until_available(
    call: Callable[[], _Value],
    on_retry: Callable[[], None] = lambda: None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> _Value:
    """Return the result of ``call``, repeating it while it raises Unavailable.

    Args:
        call: operation that is safe to repeat.
        on_retry: called before each retry; may raise to stop.
        timeout_s: time after which Unavailable is raised.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(INTERVAL_S)
            on_retry()
