# SPDX-License-Identifier: Apache-2.0
"""A bounded queue between the scoring path and a background task."""

import asyncio
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundQueue(Generic[Item]):
    """Items for a background task. Adding one never waits: a full queue rejects it."""

    def __init__(self, max_items: float = math.inf, max_bytes: float = math.inf) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: dict[Hashable, tuple[Item, int]] = {}
        self._bytes = 0
        self._added = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item, *, key: Hashable = None, size_bytes: int = 0) -> bool:
        """Add an item, or replace the one with the same ``key``. Return False if the queue is full."""
        if len(self._items) >= self._max_items or self._bytes + size_bytes > self._max_bytes:
            return False
        key = object() if key is None else key
        _, replaced_bytes = self._items.get(key, (item, 0))
        self._items[key] = item, size_bytes
        self._bytes += size_bytes - replaced_bytes
        self._idle.clear()
        self._added.set()
        return True

    def take(self, max_items: float = math.inf) -> list[Item]:
        """Remove and return the oldest items."""
        items: list[Item] = []
        while self._items and len(items) < max_items:
            item, size_bytes = self._items.pop(next(iter(self._items)))
            self._bytes -= size_bytes
            items.append(item)
        return items

    async def wait(self, timeout_s: float) -> None:
        """Wait for an item, for ``timeout_s`` at most.

        An empty queue counts as idle from here on, because the task has finished what it took.
        """
        if self._items:
            return
        self._idle.set()
        self._added.clear()
        await _wait(self._added, timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Wait until the background task has finished all items, for ``timeout_s`` at most."""
        await _wait(self._idle, timeout_s)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), max(timeout_s, 0.0))
    except TimeoutError:
        return
