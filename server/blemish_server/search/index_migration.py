# SPDX-License-Identifier: Apache-2.0
"""Migration of a model's index to the version that was promoted.

Until the index of the new version is complete, the one of the previous version serves searches. An
embedding job is created for each missing dataset, and for the kept frames. Its request id is derived from
version and dataset, so that several servers create one job.
"""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from blemish_core.jobs.record import EmbedSpec
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, DiskFull, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.search_index import SearchIndex

_INTERVAL_S = 2.0
_FRAMES = "(kept frames)"  # not a valid dataset id

log = structlog.get_logger(__name__)

CreateJob = Callable[[EmbedSpec, str], object]
"""Creates a job from a spec and a request id."""


class IndexMigrator:
    """The one part of the server that decides which index serves the searches of a model."""

    def __init__(self, models: ModelStore, index: SearchIndex, create_job: CreateJob) -> None:
        self._models = models
        self._index = index
        self._create_job = create_job
        self._requested: set[tuple[ModelRef, str]] = set()

    async def run(self) -> None:
        """Check every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await asyncio.to_thread(self.check)
            except (Unavailable, DiskFull):
                continue  # the health service reports it
            except Exception:
                log.exception("index migration failed; this is a bug")

    def check(self) -> None:
        """Advance the migration of every model in production.

        Raises:
            Unavailable: if Qdrant or Redis does not respond.
            DiskFull: if the disk has no space for an index.
        """
        for version in self._models.in_production():
            before = self._index.serving_version(version.model)
            if before == version:
                continue
            is_published = self._index.is_published(version)
            missing = dict(self._missing(version, before, is_published)) if before is not None else {}
            for content, spec in missing.items():
                self._request(version, content, spec)
            if is_published and not missing:
                self._index.set_serving_version(version)
                log.info(
                    "serving index changed", model=version.model, to=str(version), before=str(before or "")
                )

    def _missing(
        self, version: ModelRef, before: ModelRef, is_published: bool
    ) -> Iterator[tuple[str, EmbedSpec]]:
        """Yield what the index of ``before`` has and that of ``version`` lacks, with the job to add it."""
        indexed = self._index.datasets(version) if is_published else []
        for dataset in set(self._index.datasets(before)) - set(indexed):
            yield dataset, EmbedSpec(model=str(version), dataset=dataset)
        if self._index.lacks_frames(version, before):
            yield _FRAMES, EmbedSpec(model=str(version), kept_frames=True)

    def _request(self, version: ModelRef, content: str, spec: EmbedSpec) -> None:
        if (version, content) in self._requested:
            return
        self._requested.add((version, content))
        try:
            self._create_job(spec, f"migrate {version} {content}")
        except (Unavailable, DiskFull):
            self._requested.discard((version, content))
            raise
        except BlemishError as error:  # for example because the dataset was removed
            log.warning(
                "index migration job rejected", model=str(version), content=content, reason=str(error)
            )
        else:
            log.info("index migration job created", model=str(version), content=content)
