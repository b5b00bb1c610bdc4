# SPDX-License-Identifier: Apache-2.0
"""Waiting for Qdrant to come back."""

import time
from collections.abc import Callable
from typing import TypeVar

from blemish_core.platform.errors import Unavailable

_PATIENCE_S = 60.0
_EVERY_S = 1.0
_Answer = TypeVar("_Answer")


def patiently(call: Callable[[], _Answer], waiting: Callable[[], None] = lambda: None) -> _Answer:
    """Return what a call to Qdrant gives; where that is away, try for a minute.

    Args:
        call: what may raise Unavailable.
        waiting: is called before each further try, and may raise to end it.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(_EVERY_S)
            waiting()
