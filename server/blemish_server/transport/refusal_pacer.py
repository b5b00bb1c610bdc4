# SPDX-License-Identifier: Apache-2.0
"""Delays for callers that are refused again and again, so that a flood of calls costs little."""

import asyncio
from collections.abc import MutableMapping

from cachetools import TTLCache

_WINDOW_S = 1.0
_MAX_PROMPT = 20
"""Refusals of a caller within a window that are sent at once."""
_DELAY_S = 1.0
_PER_SECOND = 200
"""Refusals of floods that are sent per second. Sent all at once, thousands delay other calls."""
_MAX_CALLERS = 1000
# Bounds the memory of calls that wait, about 30 kB each.
_MAX_WAITING = 5000


class RefusalPacer:
    """Delays the refusals of a caller after its first ones within a second."""

    def __init__(self) -> None:
        self._counts: MutableMapping[str, int] = TTLCache(_MAX_CALLERS, _WINDOW_S)
        self._waiting = 0
        self._last_s = 0.0

    @property
    def is_full(self) -> bool:
        """True while so many refusals wait that further ones are sent at once."""
        return self._waiting >= _MAX_WAITING

    def counts_as_flood(self, caller: str) -> bool:
        """Count a refusal. Return whether the caller has been refused too often within a second."""
        count = self._counts.get(caller, 0) + 1
        self._counts[caller] = count
        return count > _MAX_PROMPT

    async def wait(self) -> None:
        """Return when a refusal that is part of a flood may be sent."""
        if self.is_full:
            return
        now_s = asyncio.get_running_loop().time()
        self._last_s = max(now_s + _DELAY_S, self._last_s + 1 / _PER_SECOND)
        self._waiting += 1
        try:
            await asyncio.sleep(self._last_s - now_s)
        finally:
            self._waiting -= 1
