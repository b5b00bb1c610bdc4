# SPDX-License-Identifier: Apache-2.0
"""A cache of lookups that block, for an event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import TTLCache

Key = TypeVar("Key")
Value = TypeVar("Value")

_MAX_ENTRIES = 1024


class LookupCache(Generic[Key, Value]):
    """The results of a blocking lookup, each kept for a while. Errors are not kept."""

    def __init__(
        self, lookup: Callable[[Key], Value], ttl_s: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._cache: TTLCache[Key, Value] = TTLCache(_MAX_ENTRIES, ttl_s, timer)

    async def get(self, key: Key) -> Value:
        """Return the cached result, or look it up."""
        try:
            return self._cache[key]
        except KeyError:
            return await self.refresh(key)

    async def refresh(self, key: Key) -> Value:
        """Look the result up and cache it."""
        value = await asyncio.to_thread(self._lookup, key)
        self._cache[key] = value
        return value
