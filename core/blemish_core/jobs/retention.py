# SPDX-License-Identifier: Apache-2.0
"""Deletion of expired job records, surplus model versions and files left by killed processes."""

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
_MASK_SETTLED_S = 3600.0
"""Age from which on a mask without a job is deleted: a request may wait for Redis for a while."""

log = structlog.get_logger(__name__)


class Retention:
    """The retention policy of a store.

    Args:
        store: the job records.
        models: the model versions.
        checkpoints: folder with one subfolder per job.
        drop_index: deletes the index of a version.
        serves_searches: returns True if the index of a version serves the searches of its model.
        keep_jobs: time for which job records are kept after the end of the job.
        keep_versions: number of versions to keep of each model; 0 keeps all.
    """

    def __init__(
        self,
        store: JobStore,
        models: ModelStore,
        checkpoints: Path,
        drop_index: Callable[[ModelRef], None],
        serves_searches: Callable[[ModelRef], bool],
        keep_jobs: timedelta,
        keep_versions: int,
    ) -> None:
        self._store = store
        self._models = models
        self._checkpoints = checkpoints
        self._drop_index = drop_index
        self._serves_searches = serves_searches
        self._keep_jobs = keep_jobs
        self._keep_versions = keep_versions

    def sweep(self) -> None:
        """Delete everything that has expired, unless another worker did so within the last minute.

        Raises:
            Unavailable: if Redis or Qdrant does not answer; the next sweep continues.
        """
        if not self._store.claim("retention", _EVERY_S):
            return
        for id in self._store.delete_ended(now() - self._keep_jobs):
            log.info("expired job deleted", job=id)
        self._delete_leftovers()
        self._delete_unused_masks()
        if self._keep_versions:
            self._delete_surplus_versions()

    def _delete_leftovers(self) -> None:
        folders = self._models.staged_folders()
        if self._checkpoints.is_dir():
            for folder in self._checkpoints.iterdir():
                folders.setdefault(folder.name, []).append(folder)
        for job, leftovers in folders.items():
            if self._is_open(job):
                continue
            for folder in leftovers:
                if time.time() - folder.stat().st_mtime > _SETTLED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                    log.info("leftover folder deleted", job=job, folder=folder.name)

    def _delete_unused_masks(self) -> None:
        specs = (job.spec for job in self._store.unfinished())
        needed = {spec.mask.sha256 for spec in specs if isinstance(spec, TrainSpec) and spec.mask}
        for sha256 in self._models.discard_masks(needed, _MASK_SETTLED_S):
            log.info("unused mask deleted", mask=sha256)

    def _is_open(self, job: str) -> bool:
        try:
            return not self._store.get(job).state.ended
        except NotFound:
            return False

    def _delete_surplus_versions(self) -> None:
        in_use = {job.spec.model for job in self._store.unfinished() if not isinstance(job.spec, TrainSpec)}
        for ref in self._models.beyond_retention(self._keep_versions):
            # A serving index has labels and stored frames that the next index still has to copy.
            if str(ref) not in in_use and not self._serves_searches(ref):
                self._models.delete(ref)
                self._drop_index(ref)
                log.info("surplus version deleted", model=str(ref))
