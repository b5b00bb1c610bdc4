# SPDX-License-Identifier: Apache-2.0
"""The parts of a bulk embedding, which any number of workers take side by side.

``blemish:parts:{job}`` is a hash: the points of each part that is done under its number, and how often a
part failed under ``failed:{number}``. A part in work has a lease of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from blemish_core.datasets import DatasetImage
from blemish_core.jobs.lease import Lease
from blemish_core.jobs.store import JobStore

EMBEDDING = "embedding"
"""The phase in which images are scored."""

SHARD_IMAGES = 256
"""How many images a part has, about."""

MAX_FAILURES = 3
"""With this many failures of one part the job fails."""


@dataclass(frozen=True)
class Shard:
    """One of ``of`` parts of a dataset's images: those whose content's hash falls to ``number``.

    So an image belongs to the same part whoever asks and whatever was uploaded meanwhile, and images of the
    same content belong to one part.
    """

    number: int
    of: int

    def has(self, image: DatasetImage) -> bool:
        return int(image.sha256[:15], 16) % self.of == self.number


def shards_for(images: int) -> int:
    return math.ceil(images / SHARD_IMAGES)


class ShardTracker:
    """Which of the ``of`` parts of a job are done."""

    def __init__(self, store: JobStore, job: str, of: int) -> None:
        self.of = of
        self._store = store
        self._job = job

    def points(self) -> dict[int, int]:
        """The points of each part that is done."""
        noted = self._store.shard_counts(self._job)
        return {int(field): count for field, count in noted.items() if field.isdecimal()}

    def unfinished(self) -> Iterator[tuple[Shard, Lease]]:
        """Yield each part that is not done, with the lease to be taken on it."""
        done = self.points()
        for number in range(self.of):
            if number not in done:
                yield Shard(number, self.of), Lease(self._store, f"{self._job}.{number}")

    def is_done(self, part: Shard) -> bool:
        return part.number in self.points()

    def mark_done(self, part: Shard, points: int) -> None:
        self._store.set_shard_count(self._job, str(part.number), points)

    def record_failure(self, part: Shard) -> int:
        """Note a failure; return how many that makes."""
        return self._store.increment_shard_count(self._job, f"failed:{part.number}")
