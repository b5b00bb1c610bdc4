# SPDX-License-Identifier: Apache-2.0
"""Delays for callers that are refused again and again, so that a flood of calls costs little."""

import asyncio
from collections.abc import MutableMapping

from cachetools import TTLCache

_WINDOW_S = 1.0
_MAX_PROMPT = 20
"""Refusals of a caller within a window that are sent at once."""
_DELAY_S = 1.0
_MAX_CALLERS = 1000
# Bounds the memory of calls that wait.
_MAX_WAITING = 2000


class RefusalPacer:
    """Delays the refusals of a caller after its first ones within a second."""

    def __init__(self) -> None:
        self._counts: MutableMapping[str, int] = TTLCache(_MAX_CALLERS, _WINDOW_S)
        self._waiting = 0

    def counts_as_flood(self, caller: str) -> bool:
        """Count a refusal. Return whether the caller has been refused too often within a second."""
        count = self._counts.get(caller, 0) + 1
        self._counts[caller] = count
        return count > _MAX_PROMPT

    async def wait(self) -> None:
        """Return when a refusal that is part of a flood may be sent."""
        if self._waiting >= _MAX_WAITING:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(_DELAY_S)
        finally:
            self._waiting -= 1
