# SPDX-License-Identifier: Apache-2.0
"""Brings a model's index over to the version that was promoted, as jobs; searches move when it is whole.

Whoever promoted it and where, what is seen is the outcome: a version in production that another one's index
answers for. For each dataset that its index lacks, and for the frames that were kept, an embedding job is
accepted, under a request id that follows from version and dataset, so that servers that see the same make
one job.
"""

import asyncio
from collections.abc import Callable

import structlog

from blemish_core.jobs.record import EmbedSpec
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.search_index import SearchIndex

_EVERY_S = 2.0
_FRAMES = "(kept frames)"  # no dataset is called so

log = structlog.get_logger(__name__)

Accept = Callable[[EmbedSpec, str], object]
"""Has a job made of a spec, under a request id."""


class IndexMigrator:
    def __init__(self, models: ModelStore, index: SearchIndex, accept: Accept) -> None:
        self._models = models
        self._index = index
        self._accept = accept
        self._asked: set[tuple[ModelRef, str]] = set()

    async def run(self) -> None:
        """Look every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.to_thread(self.look)
            except Unavailable:
                continue  # health tells of it
            except Exception:
                log.exception("migration failed; this is a bug")

    def look(self) -> None:
        """Do what is to be done now.

        Raises:
            Unavailable: if Qdrant or Redis does not answer.
        """
        for version in self._models.in_production():
            before = self._index.serving_version(version.model)
            if before == version:
                continue
            if self._index.advance(version):
                log.info("searches moved", model=version.model, to=str(version), before=str(before or ""))
            elif before is not None:
                self._bring_over(version, before)

    def _bring_over(self, version: ModelRef, before: ModelRef) -> None:
        there = self._index.datasets(version) if self._index.is_published(version) else []
        for dataset in set(self._index.datasets(before)) - set(there):
            self._ask(version, dataset, EmbedSpec(model=str(version), dataset=dataset))
        if self._index.lacks_frames(version, before):
            self._ask(version, _FRAMES, EmbedSpec(model=str(version), kept_frames=True))

    def _ask(self, version: ModelRef, what: str, spec: EmbedSpec) -> None:
        if (version, what) in self._asked:
            return
        self._asked.add((version, what))
        try:
            self._accept(spec, f"migrate {version} {what}")
        except Unavailable:
            self._asked.discard((version, what))
            raise
        except BlemishError as error:  # the dataset is gone, for example
            log.warning("not brought over", model=str(version), what=what, reason=str(error))
        else:
            log.info("index is being brought over", model=str(version), what=what)
