# SPDX-License-Identifier: Apache-2.0
"""Search by a part of an image: the index's candidates are looked at patch by patch and ranked again.

An index has one vector an image, of what is worst in it. Candidates come from there; where they show the
spot, and how alike it is, takes a forward pass of each. A few are under way at once, among the images that
others have scored: never so many that those would wait long.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blemish_core.batching import Patience
from blemish_core.detectors import regions
from blemish_core.detectors.detector import Look
from blemish_core.detectors.regions import Match, Spot
from blemish_core.errors import Corrupt, InvalidRequest, NotFound
from blemish_core.index import Item, Similar
from blemish_core.item_images import ItemImages
from blemish_core.names import ModelRef
from blemish_core.picture import Picture
from blemish_server.inspector import Inspected, Inspector, Terms

MOST_HITS = 100
_CANDIDATES, _FEWEST_CANDIDATES = 3, 40  # for each hit; in all
_AT_ONCE = 4

Part = Callable[[tuple[int, int]], NDArray[np.bool_]]
"""From the shape of an image to the mask of what is meant in it; InvalidRequest if that does not fit."""


@dataclass(frozen=True)
class Placed:
    """A hit, and where its image shows the spot; None if the image is gone."""

    similar: Similar
    match: Match | None
    shape: tuple[int, int] = (0, 0)
    """(H, W) of the image, px."""

    @property
    def item(self) -> Item:
        return self.similar.item

    @property
    def rank(self) -> float:
        return self.similar.similarity + (self.match.similarity if self.match else 0.0)


def candidates(limit: int) -> int:
    """How many images are looked at for so many hits."""
    return max(_FEWEST_CANDIDATES, _CANDIDATES * limit)


class Spots:
    def __init__(self, inspector: Inspector, images: ItemImages) -> None:
        self._inspector = inspector
        self._images = images

    async def find(
        self, picture: Picture, part: Part, version: ModelRef, terms: Terms
    ) -> tuple[Inspected, Spot]:
        """Say what is in a part of a picture, and of all of it what ``Inspector.inspect`` says.

        Raises:
            InvalidRequest: if the part does not fit the picture.
            as ``Inspector.inspect`` does.
        """
        done = await self._inspector.inspect(picture, version, replace(terms, closely=True))

        def described() -> Spot:
            return regions.spot(_look(done), part(done.shape), _threshold(done))

        return done, await asyncio.to_thread(described)  # a mask is an image to decode

    async def ranked(
        self, sought: Spot, among: Sequence[Similar], version: ModelRef, terms: Terms
    ) -> list[Placed]:
        """Look for a spot in the images of hits; the best first.

        Raises:
            TooLate: if the deadline passes meanwhile.
            Overloaded: if too many bytes of images wait already.
        """
        room = asyncio.Semaphore(_AT_ONCE)
        terms = replace(terms, closely=True, patience=Patience.ENDLESS)

        async def place(similar: Similar) -> Placed:
            async with room:
                try:
                    data = await asyncio.to_thread(self._images.read, version, similar.item)
                    done = await self._inspector.inspect(Picture(data), version, terms)
                except (NotFound, Corrupt, InvalidRequest):
                    return Placed(similar, None)  # gone or replaced; the hit is still one
                found = await asyncio.to_thread(
                    regions.match, _look(done), done.shape, sought, _threshold(done)
                )
                return Placed(similar, found, done.shape)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(place(similar)) for similar in among]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first; it ended the others
        return sorted((task.result() for task in tasks), key=lambda placed: placed.rank, reverse=True)


def _look(done: Inspected) -> Look:
    if done.look is None:
        raise RuntimeError("asked to look closely, the model did not; this is a bug")
    return done.look


def _threshold(done: Inspected) -> float:
    return done.calibration.calibration.pixel_threshold
