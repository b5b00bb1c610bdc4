# SPDX-License-Identifier: Apache-2.0
"""Search by a region of an image: candidates of the index are compared patch by patch and ranked again.

The index has one vector per image, which describes its most anomalous region. Candidates come from there.
Finding the region in them takes a forward pass of each. Few run at once, in the same queue as other images,
so that scoring does not wait long. The best candidates come first: a deadline cuts off the others.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.base import PatchFeatures
from blemish_core.detectors.common import regions
from blemish_core.detectors.common.regions import RegionMatch, RegionQuery
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import Corrupt, DeadlineExceeded, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item
from blemish_core.search.item_images import ItemImages
from blemish_core.search.query import Similar
from blemish_server.scoring.batcher import AdmissionLimit
from blemish_server.scoring.inspection import Inspection, QueueOptions, ScoringRequest
from blemish_server.scoring.scorer import Scorer

MAX_LOCATED_HITS = 100
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 3, 40
_CONCURRENCY = 4
# Share of the remaining time for comparisons. The rest is for sending the hits.
_COMPARING = 0.9

RegionMask = Callable[[tuple[int, int]], NDArray[np.bool_]]
"""Returns a region's mask from the (height, width) of its image, or raises InvalidRequest if it misfits."""


@dataclass(frozen=True)
class LocatedHit:
    """A hit, and the place of the region in its image."""

    similar: Similar
    match: RegionMatch | None
    """The place; None if the image is missing or was not compared."""
    shape: tuple[int, int] = (0, 0)
    """(height, width) of the image, in pixels."""

    @property
    def item(self) -> Item:
        return self.similar.item

    @property
    def rank(self) -> float:
        """Sum of the similarities of the whole image and of the region."""
        return self.similar.similarity + (self.match.similarity if self.match else 0.0)


@dataclass(frozen=True)
class Ranking:
    """Ranked hits: those with a match first, and the best of either kind first."""

    hits: list[LocatedHit]
    unseen: int
    """Number of candidates that the deadline left out."""


def candidates(limit: int) -> int:
    """Return the number of images to compare for ``limit`` hits."""
    return max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * limit)


class RegionSearch:
    """Finds a region of one image in other images."""

    def __init__(self, scorer: Scorer, images: ItemImages) -> None:
        self._scorer = scorer
        self._images = images

    async def describe(
        self,
        image: ImageInput,
        mask: RegionMask,
        version: ModelRef,
        options: QueueOptions,
        *,
        with_preview: bool = False,
    ) -> tuple[Inspection, RegionQuery]:
        """Inspect an image and return what its region looks like.

        Raises:
            InvalidRequest: if the region does not fit the image.
            BlemishError: as ``Scorer.score`` does.
        """
        inspection = await self._scorer.score(
            ScoringRequest.of(image, version, options, with_patches=True, with_preview=with_preview)
        )

        def describe() -> RegionQuery:
            return regions.describe_region(
                _patches(inspection), mask(inspection.shape), _threshold(inspection)
            )

        # In a thread, because a mask is an image to decode.
        return inspection, await asyncio.to_thread(describe)

    async def rank(
        self, query: RegionQuery, among: Sequence[Similar], version: ModelRef, options: QueueOptions
    ) -> Ranking:
        """Find a region in the images of hits, in as many as the deadline allows.

        Args:
            query: the region to find.
            among: hits, best first.
            version: model version that scores the images.
            options: how each image is queued. A tenth of the time until the deadline is left over.

        Raises:
            DeadlineExceeded: if there was no time for a single image.
            Overloaded: if too many bytes of images are in progress.
        """
        options = replace(options, limit=AdmissionLimit.UNLIMITED)
        compared: dict[UUID, LocatedHit] = {}
        remaining = iter(among)

        async def compare() -> None:
            with suppress(DeadlineExceeded):  # admission rejects what could not finish in time
                for similar in remaining:
                    compared[similar.item.id] = await self._locate(query, similar, version, options)

        try:
            async with asyncio.timeout(_COMPARING * (options.deadline - time.monotonic())):
                async with asyncio.TaskGroup() as group:
                    for _ in range(_CONCURRENCY):
                        group.create_task(compare())
        except TimeoutError:
            pass
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first failure cancelled the other tasks
        if among and not compared:
            raise DeadlineExceeded(
                f"no time to compare any of {len(among)} candidate images; allow more time"
            )
        hits = [compared.get(similar.item.id, LocatedHit(similar, None)) for similar in among]
        hits.sort(key=lambda hit: (hit.match is not None, hit.rank), reverse=True)
        return Ranking(hits, len(among) - len(compared))

    async def _locate(
        self, query: RegionQuery, similar: Similar, version: ModelRef, options: QueueOptions
    ) -> LocatedHit:
        try:
            data = await asyncio.to_thread(self._images.read, version, similar.item)
            inspection = await self._scorer.score(
                ScoringRequest.of(ImageInput(data), version, options, with_patches=True)
            )
        except (NotFound, Corrupt, InvalidRequest):
            return LocatedHit(similar, None)  # the image was removed or replaced; the hit remains
        match = await asyncio.to_thread(
            regions.locate_region, _patches(inspection), inspection.shape, query, _threshold(inspection)
        )
        return LocatedHit(similar, match, inspection.shape)


def _patches(inspection: Inspection) -> PatchFeatures:
    if inspection.patches is None:
        raise RuntimeError("the model returned no patch features; this is a bug")
    return inspection.patches


def _threshold(inspection: Inspection) -> float:
    return inspection.calibration.pixel_threshold
