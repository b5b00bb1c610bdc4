# SPDX-License-Identifier: Apache-2.0
"""What a search by a part looks at, and what it answers when there is no time to look at everything."""

import asyncio
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from tests.support.inspections import make_inspection, make_patches

from blemish.v1 import search_pb2
from blemish.v1.image_pb2 import Region
from blemish_core.detectors.common.regions import RegionQuery
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import DeadlineExceeded, NotFound, Overloaded
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item
from blemish_core.search.query import Similar
from blemish_server.scoring.inspection import Inspection, QueueOptions, ScoringRequest
from blemish_server.search.region_search import Ranking, RegionSearch
from blemish_server.servicers.search import SearchServicer

VERSION = ModelRef("tile", 1)
ACROSS = np.array([1.0, 0.0], np.float32)
SOUGHT = RegionQuery(np.ones(3, np.float32), ACROSS, 0.5)
SLOW, GONE, REFUSED, FULL = "slow", "gone", "refused", "full"


class Images:
    """Stands for stored images and for the model that looks at them.

    Each is what it is told to be: as like what is sought as a number says, SLOW (nobody ever sees it),
    GONE, REFUSED (the deadline could not be kept) or FULL.
    """

    def __init__(self, images: Sequence[float | str]) -> None:
        self._images = list(images)
        self.asked: list[int] = []
        self.under_way = 0

    def read(self, version: ModelRef, item: Item) -> bytes:
        if self._images[item.id.int] == GONE:
            raise NotFound("it is gone")
        return bytes([item.id.int])

    async def score(self, request: ScoringRequest) -> Inspection:
        assert request.with_patches
        number = request.claim().image.data[0]
        self.asked.append(number)
        image = self._images[number]
        if image == REFUSED:
            raise DeadlineExceeded("it would take about 4.70 s, but only 0.10 s are left")
        if image == FULL:
            raise Overloaded("images of 512 MiB are being worked on already")
        self.under_way += 1
        try:
            await (asyncio.Event().wait() if image == SLOW else asyncio.sleep(0))
        finally:
            self.under_way -= 1
        return make_inspection(version=request.model, patches=make_patches(float(image)))

    async def ranked(self, deadline_s: float = math.inf) -> Ranking:
        terms = QueueOptions("caller", deadline=time.monotonic() + deadline_s)
        return await RegionSearch(self, self).rank(SOUGHT, self.similar(), VERSION, terms)  # type: ignore[arg-type]

    def similar(self) -> list[Similar]:
        """All of them, as the index finds them: the first is the most alike."""
        items = (Item(UUID(int=number), "", 1.0, 0.5, True) for number in range(len(self._images)))
        return [Similar(item, 0.9 - 0.01 * item.id.int) for item in items]


def order(ranking: Ranking) -> list[int]:
    return [hit.item.id.int for hit in ranking.hits]


def matches(ranking: Ranking) -> list[float | None]:
    return [round(one.match.similarity, 3) if one.match else None for one in ranking.hits]


async def test_all_are_looked_at_and_ranked_by_both_likenesses() -> None:
    images = Images([0.0, 0.5, 0.2, 0.9, 0.9, 0.1, 0.0, 0.3])
    ranking = await images.ranked()
    assert order(ranking) == [3, 4, 1, 7, 2, 5, 0, 6]
    assert matches(ranking) == [0.9, 0.9, 0.5, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert ranking.unseen == 0


async def test_a_hit_whose_image_is_gone_is_still_one_and_comes_last() -> None:
    ranking = await Images([GONE, 0.0, 0.4]).ranked()
    assert (order(ranking), matches(ranking), ranking.unseen) == ([2, 1, 0], [0.4, 0.0, None], 0)


async def test_what_was_seen_is_answered_before_the_deadline() -> None:
    images = Images([0.1, 0.7, 0.2, SLOW, 0.5, SLOW, SLOW, SLOW, 0.9, 0.9])
    began = time.monotonic()
    ranking = await images.ranked(deadline_s=1.0)
    assert 0.5 < time.monotonic() - began < 1.0
    assert matches(ranking) == [0.7, 0.5, 0.2, 0.1, *[None] * 6]
    assert order(ranking) == [1, 4, 2, 0, 3, 5, 6, 7, 8, 9], "those not seen come as the index has them"
    assert ranking.unseen == 6
    assert images.asked == [0, 1, 2, 3, 4, 5, 6, 7], "the best first"
    assert images.under_way == 0, "nobody waits for the others"


async def test_what_the_door_says_is_too_late_was_not_seen() -> None:
    images = Images([0.1, 0.7, REFUSED, REFUSED, REFUSED, REFUSED, 0.9])
    ranking = await images.ranked(deadline_s=60)
    assert (matches(ranking), ranking.unseen) == ([0.7, 0.1, *[None] * 5], 5)


@pytest.mark.parametrize("image", [SLOW, REFUSED])
async def test_it_is_too_late_where_none_was_seen(image: str) -> None:
    images = Images([image] * 6)
    with pytest.raises(DeadlineExceeded, match="any of 6 candidate images"):
        await images.ranked(deadline_s=0.5)
    assert images.asked == [0, 1, 2, 3], "never more than four at once"


async def test_nothing_to_look_at_is_no_hits_however_late() -> None:
    assert order(await Images([]).ranked(deadline_s=0)) == []


async def test_what_is_not_a_matter_of_time_is_said() -> None:
    with pytest.raises(Overloaded, match="512 MiB"):
        await Images([0.1, FULL, 0.3]).ranked(deadline_s=60)


@pytest.mark.parametrize(
    ("images", "hits", "pages"),
    [
        ([1.0, 0.4, 0.3], [0.4, 0.3], []),
        ([1.0, 0.4, *[REFUSED] * 4], [0.4, None, None], [search_pb2.SearchPage(unseen=4)]),
    ],
)
async def test_the_answer_says_last_how_many_were_not_seen(
    images: list[float | str], hits: list[float | None], pages: list[search_pb2.SearchPage]
) -> None:
    """The query is the first of the images."""
    model = Images(images)

    async def search(version: ModelRef, query: object, limit: int, timeout_s: float) -> list[Similar]:
        return model.similar()

    index: Any = SimpleNamespace(
        resolve=lambda ref, version: VERSION,
        dimensions=lambda version: 3,
        check_published=lambda version: None,
        item=lambda version, id: model.similar()[id.int].item,
    )
    store: Any = SimpleNamespace(resolve=lambda ref: VERSION)
    finder: Any = SimpleNamespace(search=search)
    servicer = SearchServicer(model, store, index, finder, model, ImageLimits())  # type: ignore[arg-type]
    query = f"items/{UUID(int=0)}"
    request = search_pb2.SearchRequest(model="models/tile", item=query, limit=3)
    request.region.CopyFrom(Region(width=64, height=64))
    context: Any = SimpleNamespace(time_remaining=lambda: 60.0, peer=lambda: "here")
    answers = [answer async for answer in servicer.Search(request, context)]
    found = [answer.hit.match if answer.hit.HasField("match") else None for answer in answers[: len(hits)]]
    assert [match and round(match.similarity, 3) for match in found] == hits
    assert [answer.page for answer in answers[len(hits) :]] == pages
