# SPDX-License-Identifier: Apache-2.0
"""Which version's index answers for a name; a search need not ask the store and Qdrant for it each time."""

import asyncio
from dataclasses import dataclass
from time import monotonic

from blemish_core.index import SearchIndex
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef

# How long an answer is taken for granted, as loaded.py does it for models.
_REMEMBERED_S = 0.25


@dataclass(frozen=True)
class _Known:
    version: ModelRef
    until_s: float


class Answering:
    """Lives in one event loop. What is not there is not remembered."""

    def __init__(self, models: ModelStore, index: SearchIndex) -> None:
        self._models = models
        self._index = index
        self._known: dict[ModelRef, _Known] = {}

    async def recent(self, ref: ModelRef) -> ModelRef:
        """Return the fixed version whose index answers, or did until a moment ago.

        Raises:
            NotFound: if there is no such model or version.
            Unavailable: if Qdrant does not answer.
        """
        known = self._known.get(ref)
        if known is not None and monotonic() < known.until_s:
            return known.version
        return await self.now(ref)

    async def now(self, ref: ModelRef) -> ModelRef:
        """Return the fixed version whose index answers; ``recent`` knows it from here on.

        Raises:
            as ``recent`` does.
        """
        version = await asyncio.to_thread(self._look, ref)
        self._known[ref] = _Known(version, monotonic() + _REMEMBERED_S)
        return version

    def _look(self, ref: ModelRef) -> ModelRef:
        return self._index.serving(ref, self._models.resolve(ref))
