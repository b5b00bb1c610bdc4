# SPDX-License-Identifier: Apache-2.0
"""Names of defect classes for anomalous images, from the labelled items of the version that scored them.

The labelled items of each version in demand are kept in memory and read again every few seconds in the
background. Naming a defect therefore takes about a millisecond and no call to Qdrant. If Qdrant is slow or
away, verdicts are sent as fast as before, with the labels that were read last.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog
from cachetools import TTLCache

from blemish_core.platform.errors import DiskFull, NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import Consensus, DefectClass, LabelledItems
from blemish_core.search.query import Vector

WAIT_S = 0.25
"""Longest wait of a call for labels that are read for the first time, from the start of the read."""
_REFRESH_EVERY_S = 5.0
# Labels in demand are never this old. After a pause, calls wait for the next read as they do for the first.
_OLD_S = 15.0
# Older embeddings are read again, because the index may have been replaced.
_DISCARD_S = 60.0
_MIN_INTERVAL_S = 0.1
_MAX_VERSIONS = 16
_UNUSED_S = 600.0
_CONCURRENT_READS = 2
# Comparisons of up to this many values take less than a millisecond, so they need no thread.
_MAX_INLINE = 1 << 19
_MAX_COMPARISON_S = 0.05

ReadLabels = Callable[[ModelRef, LabelledItems], Awaitable[LabelledItems]]
"""Reads the labelled items of a version's index, given those that were read before."""

log = structlog.get_logger(__name__)


class NamingObserver(Protocol):
    """A metric of named defects and of reads of labels."""

    def named(self, version: ModelRef, consensus: Consensus, seconds: float) -> None:
        """Count a request for a defect class, and the time that it added to the response."""

    def labels_read(self, version: ModelRef, seconds: float, *, succeeded: bool) -> None:
        """Count a read of the labelled items of a version."""


@dataclass
class _VersionLabels:
    """The labelled items of one version, and the state of their reading."""

    items: LabelledItems | None = None
    """Items read last; None before the first read."""
    changes: int = 0
    """Changes of labels that were reported."""
    read_changes: int = 0
    """Changes that were reported before the last read began."""
    read_s: float = -math.inf
    """End of the last successful read, on the clock of ``time.monotonic()``."""
    tried_s: float = -math.inf
    """Start of the last read, or of the next one if it is planned."""
    failed: bool = False
    """True if the last read that ended has failed."""
    task: "asyncio.Task[None] | None" = None
    """Task that reads, while there is one."""

    def schedule_read(self) -> None:
        """Plan the next read: now, or a moment later if a person labels many items in a row."""
        self.tried_s = max(time.monotonic(), self.tried_s + _MIN_INTERVAL_S)

    @property
    def is_old(self) -> bool:
        """True if a call that may wait waits for the read in progress."""
        return self.changes > self.read_changes or self.age_s >= _OLD_S

    @property
    def age_s(self) -> float:
        """Time since the last successful read."""
        return time.monotonic() - self.read_s


class DefectNamer:
    """Names the classes of defects. It belongs to one event loop."""

    def __init__(self, read: ReadLabels, metrics: NamingObserver) -> None:
        self._read = read
        self._metrics = metrics
        self._versions: TTLCache[ModelRef, _VersionLabels] = TTLCache(_MAX_VERSIONS, _UNUSED_S)
        self._reads = asyncio.Semaphore(_CONCURRENT_READS)
        # The default threads may all be waiting for Qdrant.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="naming")

    def close(self) -> None:
        """Cancel the reads in progress."""
        for labels in self._versions.values():
            if labels.task is not None:
                labels.task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def prepare(self, version: ModelRef) -> None:
        """Begin to read the labels of a version unless they are recent. Return at once."""
        labels = self._labels(version)
        if labels.task is None and time.monotonic() >= labels.tried_s + _REFRESH_EVERY_S:
            self._begin_read(version, labels)

    def expire(self, version: ModelRef) -> None:
        """Read the labels of a version again, because one of them changed."""
        labels = self._versions.get(version)
        if labels is not None:
            labels.changes += 1
            if labels.task is None:
                self._begin_read(version, labels)

    async def name(self, version: ModelRef, embedding: Vector, *, may_wait_until: float) -> DefectClass:
        """Return the most likely class of a defect.

        Args:
            version: version that computed the embedding.
            embedding: embedding of the anomalous image, of shape (dimensions,).
            may_wait_until: time, on the clock of ``time.monotonic()``, until which the response may wait
                for labels that are read for the first time; ``-math.inf`` for not at all.
        """
        began_s = time.monotonic()
        self.prepare(version)
        labels = self._labels(version)
        if labels.task is not None and labels.is_old and not labels.failed:
            wait_s = min(labels.tried_s, began_s) + WAIT_S - began_s
            wait_s = min(wait_s, may_wait_until - began_s)
            if wait_s > 0:
                await asyncio.wait([labels.task], timeout=wait_s)
        found = DefectClass(Consensus.UNAVAILABLE)
        if labels.items is not None:
            try:
                found = await self._classify(labels.items, embedding)
            except Exception:  # the verdict is sent in any case
                log.exception("defect not named; this is a bug", model=str(version))
        self._metrics.named(version, found.consensus, time.monotonic() - began_s)
        return found

    async def _classify(self, items: LabelledItems, embedding: Vector) -> DefectClass:
        if items.vectors.size <= _MAX_INLINE:
            return items.classify(embedding)
        comparison = asyncio.get_running_loop().run_in_executor(self._thread, items.classify, embedding)
        try:
            return await asyncio.wait_for(comparison, _MAX_COMPARISON_S)
        except TimeoutError:
            return DefectClass(Consensus.UNAVAILABLE)

    def _labels(self, version: ModelRef) -> _VersionLabels:
        labels = self._versions.pop(version, None) or _VersionLabels()
        self._versions[version] = labels  # restarts its time to live
        return labels

    def _begin_read(self, version: ModelRef, labels: _VersionLabels) -> None:
        labels.schedule_read()
        labels.task = asyncio.create_task(self._update(version, labels))

    async def _update(self, version: ModelRef, labels: _VersionLabels) -> None:
        """Read the labels of a version, and read them again if they change meanwhile."""
        try:
            while True:
                await asyncio.sleep(labels.tried_s - time.monotonic())
                changes = labels.changes
                labels.failed = not await self._read_into(version, labels)
                self._metrics.labels_read(
                    version, time.monotonic() - labels.tried_s, succeeded=not labels.failed
                )
                if not labels.failed:
                    labels.read_s, labels.read_changes = time.monotonic(), changes
                if labels.failed or labels.changes == changes:
                    return
                labels.schedule_read()
        finally:
            labels.task = None

    async def _read_into(self, version: ModelRef, labels: _VersionLabels) -> bool:
        """Read the labelled items of a version once. Return False if that fails."""
        known = labels.items if labels.items is not None and labels.age_s < _DISCARD_S else LabelledItems()
        try:
            async with self._reads:
                labels.items = await self._read(version, known)
        except NotFound:
            labels.items = LabelledItems()
        except (Unavailable, DiskFull) as error:
            log.debug("labels not read", model=str(version), reason=str(error))
            return False
        except Exception:
            log.exception("labels not read; this is a bug", model=str(version))
            return False
        return True
