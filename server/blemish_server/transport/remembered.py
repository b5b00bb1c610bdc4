# SPDX-License-Identifier: Apache-2.0
"""What stores say, taken for granted for a moment: a search need not ask for it each time."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

_REMEMBERED_S = 0.25  # as loaded.py does it for models

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """Lives in one event loop; ``look`` blocks, and what it raises is raised and not remembered."""

    def __init__(self, look: Callable[[Key], Value], for_s: float = _REMEMBERED_S) -> None:
        self._look = look
        self._for_s = for_s
        self._known: dict[Key, tuple[Value, float]] = {}  # and until when

    async def recent(self, key: Key) -> Value:
        """Return what is so, or was until a moment ago."""
        value, until_s = self._known.get(key, (None, 0.0))
        if value is not None and monotonic() < until_s:
            return value
        return await self.now(key)

    async def now(self, key: Key) -> Value:
        """Return what is so; ``recent`` knows it from here on."""
        value = await asyncio.to_thread(self._look, key)
        self._known[key] = (value, monotonic() + self._for_s)
        return value
