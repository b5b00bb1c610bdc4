# SPDX-License-Identifier: Apache-2.0
"""Removes what is no longer needed: records of old jobs, old versions, what killed processes left."""

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import structlog

from blemish_core.jobs.record import TrainSpec, now
from blemish_core.jobs.store import JobStore
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import NotFound
from blemish_core.platform.names import ModelRef

_EVERY_S = 55.0
_SETTLED_S = 60.0

log = structlog.get_logger(__name__)


class Retention:
    """Keeps jobs for ``keep_jobs`` after their end, of each model the ``keep_versions`` newest (0: all).

    ``drop_index`` removes a version's index; ``answers`` tells whether that index answers for its model.
    """

    def __init__(
        self,
        store: JobStore,
        models: ModelStore,
        checkpoints: Path,
        drop_index: Callable[[ModelRef], None],
        answers: Callable[[ModelRef], bool],
        keep_jobs: timedelta,
        keep_versions: int,
    ) -> None:
        self._store = store
        self._models = models
        self._checkpoints = checkpoints
        self._drop_index = drop_index
        self._answers = answers
        self._keep_jobs = keep_jobs
        self._keep_versions = keep_versions

    def sweep(self) -> None:
        """Remove what is due, unless somebody has within the last minute.

        Raises:
            Unavailable: if Redis or Qdrant does not answer; what is left goes next time.
        """
        if not self._store.claim("retention", _EVERY_S):
            return
        for id in self._store.delete_ended(now() - self._keep_jobs):
            log.info("old job forgotten", job=id)
        self._left_behind()
        if self._keep_versions:
            self._versions()

    def _left_behind(self) -> None:
        folders = self._models.staged_folders()
        if self._checkpoints.is_dir():
            for folder in self._checkpoints.iterdir():
                folders.setdefault(folder.name, []).append(folder)
        for job, left in folders.items():
            if self._is_open(job):
                continue
            for folder in left:
                if time.time() - folder.stat().st_mtime > _SETTLED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("left behind, removed", job=job, folder=folder.name)

    def _is_open(self, job: str) -> bool:
        try:
            return not self._store.get(job).state.ended
        except NotFound:
            return False

    def _versions(self) -> None:
        wanted = {job.spec.model for job in self._store.unfinished() if not isinstance(job.spec, TrainSpec)}
        for ref in self._models.beyond_retention(self._keep_versions):
            # An index that still answers has the labels and kept frames that the new one is to take over.
            if str(ref) not in wanted and not self._answers(ref):
                self._models.delete(ref)
                self._drop_index(ref)
                log.info("old version removed", model=str(ref))
