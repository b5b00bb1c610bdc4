# SPDX-License-Identifier: Apache-2.0
"""Search by a part of an image: the index's candidates are looked at patch by patch and ranked again.

An index has one vector an image, of what is worst in it. Candidates come from there; where they show the
spot, and how alike it is, takes a forward pass of each. A few are under way at once, among the images that
others have scored: never so many that those would wait long. The best come first, so that a deadline which
leaves no time for all of them leaves the best.
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
from blemish_server.scoring.batcher import Patience
from blemish_server.scoring.scorer import Inspected, Scorer, Terms

MOST_HITS = 100
_CANDIDATES, _FEWEST_CANDIDATES = 3, 40  # for each hit; in all
_AT_ONCE = 4
# Of the time that is left when looking begins; the rest is for sending what was found.
_LOOKING = 0.9

Part = Callable[[tuple[int, int]], NDArray[np.bool_]]
"""From the shape of an image to the mask of what is meant in it; InvalidRequest if that does not fit."""


@dataclass(frozen=True)
class Placed:
    """A hit, and where its image shows the spot; None if the image is gone, or was not looked at."""

    similar: Similar
    match: RegionMatch | None
    shape: tuple[int, int] = (0, 0)
    """(H, W) of the image, px."""

    @property
    def item(self) -> Item:
        return self.similar.item

    @property
    def rank(self) -> float:
        return self.similar.similarity + (self.match.similarity if self.match else 0.0)


@dataclass(frozen=True)
class Ranking:
    """Hits, those with a match first, and of each kind the best first."""

    placed: list[Placed]
    unseen: int
    """How many there was no time to look at."""


def candidates(limit: int) -> int:
    """How many images are looked at for so many hits."""
    return max(_FEWEST_CANDIDATES, _CANDIDATES * limit)


class Spots:
    def __init__(self, inspector: Scorer, images: ItemImages) -> None:
        self._inspector = inspector
        self._images = images

    async def find(
        self, picture: ImageInput, part: Part, version: ModelRef, terms: Terms
    ) -> tuple[Inspected, RegionQuery]:
        """Say what is in a part of a picture, and of all of it what ``Scorer.inspect`` says.

        Raises:
            InvalidRequest: if the part does not fit the picture.
            as ``Scorer.inspect`` does.
        """
        done = await self._inspector.inspect(picture, version, replace(terms, closely=True))

        def described() -> RegionQuery:
            return regions.describe_region(_look(done), part(done.shape), _threshold(done))

        return done, await asyncio.to_thread(described)  # a mask is an image to decode

    async def ranked(
        self, sought: RegionQuery, among: Sequence[Similar], version: ModelRef, terms: Terms
    ) -> Ranking:
        """Look for a spot in the images of hits, as many as there is time for.

        Args:
            sought: what is looked for.
            among: hits, best first.
            version: whose they are.
            terms: how each image waits; of the time until its deadline a tenth is left over.

        Raises:
            DeadlineExceeded: if there was no time for a single one.
            Overloaded: if too many bytes of images wait already.
        """
        terms = replace(terms, closely=True, patience=Patience.ENDLESS)
        seen: dict[UUID, Placed] = {}
        following = iter(among)

        async def look() -> None:
            with suppress(DeadlineExceeded):  # as the door has it, which knows who else waits
                for similar in following:
                    seen[similar.item.id] = await self._placed(sought, similar, version, terms)

        try:
            async with asyncio.timeout(_LOOKING * (terms.deadline - time.monotonic())):
                async with asyncio.TaskGroup() as group:
                    for _ in range(_AT_ONCE):
                        group.create_task(look())
        except TimeoutError:
            pass
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first; it ended the others
        if among and not seen:
            raise DeadlineExceeded(
                f"there was no time to look at any of {len(among)} images that may show it; allow more time"
            )
        placed = [seen.get(similar.item.id, Placed(similar, None)) for similar in among]
        placed.sort(key=lambda one: (one.match is not None, one.rank), reverse=True)
        return Ranking(placed, len(among) - len(seen))

    async def _placed(
        self, sought: RegionQuery, similar: Similar, version: ModelRef, terms: Terms
    ) -> Placed:
        try:
            data = await asyncio.to_thread(self._images.read, version, similar.item)
            done = await self._inspector.inspect(ImageInput(data), version, terms)
        except (NotFound, Corrupt, InvalidRequest):
            return Placed(similar, None)  # gone or replaced; the hit is still one
        found = await asyncio.to_thread(
            regions.locate_region, _look(done), done.shape, sought, _threshold(done)
        )
        return Placed(similar, found, done.shape)


def _look(done: Inspected) -> PatchFeatures:
    if done.look is None:
        raise RuntimeError("asked to look closely, the model did not; this is a bug")
    return done.look


def _threshold(done: Inspected) -> float:
    return done.calibration.calibration.pixel_threshold
