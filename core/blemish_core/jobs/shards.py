# SPDX-License-Identifier: Apache-2.0
"""The shards of a bulk embedding, which any number of workers process in parallel.

``blemish:parts:{job}`` is a hash. Field ``{number}`` holds the number of points of a finished shard, and
``failed:{number}`` the number of failures of a shard. A shard being processed has a lease of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from blemish_core.datasets import DatasetImage
from blemish_core.jobs.lease import Lease
from blemish_core.jobs.store import JobStore

EMBEDDING = "embedding"
"""Name of the phase in which images are scored."""

SHARD_IMAGES = 256
"""Approximate number of images per shard."""

MAX_FAILURES = 3
"""Failures of one shard after which the job fails."""


@dataclass(frozen=True)
class Shard:
    """One of ``of`` shards of a set of images, assigned by the hash of their content.

    The assignment does not depend on other images, so later uploads do not move an image. Images of the
    same content share a shard.
    """

    number: int
    of: int

    def contains(self, image: DatasetImage) -> bool:
        """Return True if the image belongs to this shard."""
        return int(image.sha256[:15], 16) % self.of == self.number


def shards_for(images: int) -> int:
    """Return the number of shards for a number of images."""
    return math.ceil(images / SHARD_IMAGES)


class ShardTracker:
    """The state of the ``of`` shards of a job in Redis."""

    def __init__(self, store: JobStore, job: str, of: int) -> None:
        self.of = of
        self._store = store
        self._job = job

    def points(self) -> dict[int, int]:
        """Return the number of points of each finished shard."""
        counts = self._store.shard_counts(self._job)
        return {int(field): count for field, count in counts.items() if field.isdecimal()}

    def unfinished(self) -> Iterator[tuple[Shard, Lease]]:
        """Yield each unfinished shard with the lease to acquire for it."""
        finished = self.points()
        for number in range(self.of):
            if number not in finished:
                yield Shard(number, self.of), Lease(self._store, f"{self._job}.{number}")

    def is_finished(self, shard: Shard) -> bool:
        """Return True if the shard is finished."""
        return shard.number in self.points()

    def mark_finished(self, shard: Shard, points: int) -> None:
        """Record that a shard is finished, with its number of points."""
        self._store.set_shard_count(self._job, str(shard.number), points)

    def record_failure(self, shard: Shard) -> int:
        """Record a failure of a shard; return its number of failures."""
        return self._store.increment_shard_count(self._job, f"failed:{shard.number}")
