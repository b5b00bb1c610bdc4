# SPDX-License-Identifier: Apache-2.0
"""Search by region: which images are compared, and what a deadline leaves out."""

import asyncio
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from tests.support.inspections import make_calibration, make_inspection, make_patches
from tests.support.qdrant_twin import TwinPoints, in_memory_qdrant

from blemish.v1 import search_pb2
from blemish.v1.image_pb2 import Region
from blemish_core.datasets import DatasetStore
from blemish_core.detectors.common.regions import RegionQuery
from blemish_core.imaging.decode import ImageLimits
from blemish_core.localization.settings import RegionSettings
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import DeadlineExceeded, NotFound, Overloaded
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import Item
from blemish_core.search.item_images import ItemImages
from blemish_core.search.query import Similar
from blemish_core.search.search_index import SearchIndex
from blemish_server.scoring.inspection import Inspection, QueueOptions, ScoringRequest
from blemish_server.scoring.scorer import Scorer
from blemish_server.search.region_search import Ranking, RegionSearch
from blemish_server.servicers.search import SearchServicer

VERSION = ModelRef("tile", 1)
REGION = RegionQuery(np.ones(3, np.float32), np.array([1.0, 0.0], np.float32), 0.5)
SLOW, MISSING, LATE, FULL = "slow", "missing", "late", "full"

Images = Sequence[float | str]
"""Images by their similarity to the region, or by how scoring them fails."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


class FakeImages(ItemImages):
    """Stored images, each of which consists of its number."""

    def __init__(self, images: Images) -> None:
        super().__init__(DatasetStore(Path("unused"), ImageLimits()), FrameStore(Path("unused")))
        self._images = images

    def read(self, version: ModelRef, item: Item) -> bytes:
        if self._images[item.id.int] == MISSING:
            raise NotFound("the image was removed")
        return bytes([item.id.int])


class FakeScorer(Scorer):
    """A scorer of numbered images.

    An image is a similarity to the region, or how scoring fails: SLOW never ends, LATE cannot meet the
    deadline, and FULL exceeds the limit on bytes.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self.scored: list[int] = []
        self.in_progress = 0

    async def score(self, request: ScoringRequest) -> Inspection:
        assert request.with_patches
        number = request.claim().image.data[0]
        self.scored.append(number)
        image = self._images[number]
        if image == LATE:
            raise DeadlineExceeded("scoring would take about 4.70 s, but 0.10 s are left")
        if image == FULL:
            raise Overloaded("images of 512 MiB are in progress already")
        self.in_progress += 1
        try:
            await (asyncio.Event().wait() if image == SLOW else asyncio.sleep(0))
        finally:
            self.in_progress -= 1
        # The patches of ``make_patches`` lie at this threshold.
        calibration = make_calibration().with_regions(RegionSettings(pixel_threshold=0.0))
        patches = make_patches(float(image))
        return make_inspection(version=request.model, patches=patches, calibration=calibration)


class ProductionModels(ModelStore):
    """A store whose models all mean one version."""

    def resolve(self, ref: ModelRef) -> ModelRef:
        return VERSION


class FakeContext:
    """The context of a call with a minute to its deadline."""

    def time_remaining(self) -> float:
        return 60.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def make_items(count: int) -> list[Item]:
    return [Item(UUID(int=number), f"{number}", 1.0, 0.5, True) for number in range(count)]


async def rank(scorer: FakeScorer, images: Images, deadline_s: float = math.inf) -> Ranking:
    """Rank all images; the first is the most similar one as a whole."""
    similar = [Similar(item, 0.9 - 0.01 * item.id.int) for item in make_items(len(images))]
    options = QueueOptions("caller", deadline=time.monotonic() + deadline_s)
    return await RegionSearch(scorer, FakeImages(images)).rank(REGION, similar, VERSION, options)


def order(ranking: Ranking) -> list[int]:
    return [hit.item.id.int for hit in ranking.hits]


def matches(ranking: Ranking) -> list[float | None]:
    return [round(hit.match.similarity, 3) if hit.match else None for hit in ranking.hits]


async def test_hits_are_ranked_by_the_sum_of_both_similarities() -> None:
    images: Images = [0.0, 0.5, 0.2, 0.9, 0.9, 0.1, 0.0, 0.3]
    ranking = await rank(FakeScorer(images), images)
    assert order(ranking) == [3, 4, 1, 7, 2, 5, 0, 6]
    assert matches(ranking) == [0.9, 0.9, 0.5, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert ranking.unseen == 0


async def test_hit_without_an_image_comes_last() -> None:
    images: Images = [MISSING, 0.0, 0.4]
    ranking = await rank(FakeScorer(images), images)
    assert (order(ranking), matches(ranking), ranking.unseen) == ([2, 1, 0], [0.4, 0.0, None], 0)


async def test_images_compared_before_the_deadline_are_ranked() -> None:
    images: Images = [0.1, 0.7, 0.2, SLOW, 0.5, SLOW, SLOW, SLOW, 0.9, 0.9]
    scorer, start_s = FakeScorer(images), time.monotonic()
    ranking = await rank(scorer, images, deadline_s=1.0)
    assert 0.5 < time.monotonic() - start_s < 1.0
    assert matches(ranking) == [0.7, 0.5, 0.2, 0.1, *[None] * 6]
    assert order(ranking) == [1, 4, 2, 0, 3, 5, 6, 7, 8, 9], "images not compared keep the index's order"
    assert ranking.unseen == 6
    assert scorer.scored == [0, 1, 2, 3, 4, 5, 6, 7], "the best first"
    assert scorer.in_progress == 0, "images in progress are cancelled"


async def test_images_that_admission_rejects_are_left_out() -> None:
    images: Images = [0.1, 0.7, LATE, LATE, LATE, LATE, 0.9]
    ranking = await rank(FakeScorer(images), images, deadline_s=60)
    assert (matches(ranking), ranking.unseen) == ([0.7, 0.1, *[None] * 5], 5)


@pytest.mark.parametrize("image", [SLOW, LATE])
async def test_deadline_error_if_no_image_was_compared(image: str) -> None:
    scorer = FakeScorer([image] * 6)
    with pytest.raises(DeadlineExceeded, match="any of 6 candidate images"):
        await rank(scorer, [image] * 6, deadline_s=0.5)
    assert scorer.scored == [0, 1, 2, 3], "four at once"


async def test_search_without_candidates_has_no_hits_after_the_deadline() -> None:
    assert order(await rank(FakeScorer([]), [], deadline_s=0)) == []


async def test_other_errors_end_the_search() -> None:
    images: Images = [0.1, FULL, 0.3]
    with pytest.raises(Overloaded, match="512 MiB"):
        await rank(FakeScorer(images), images, deadline_s=60)


@pytest.mark.parametrize(
    ("images", "hits", "pages"),
    [
        ([1.0, 0.4, 0.3], [0.4, 0.3], []),
        ([1.0, 0.4, *[LATE] * 4], [0.4, None, None], [search_pb2.SearchPage(unseen=4)]),
    ],
)
async def test_last_response_has_the_number_of_images_left_out(
    images: Images, hits: list[float | None], pages: list[search_pb2.SearchPage]
) -> None:
    """The query is the first image, and the index finds them in their order."""
    client = in_memory_qdrant()
    index = SearchIndex(client)
    index.prepare(VERSION, 3)
    vectors = np.array([(1, 0.01 * number, 0) for number in range(len(images))], np.float32)
    index.put(VERSION, make_items(len(images)), vectors)
    index.publish(VERSION)
    servicer = SearchServicer(
        FakeScorer(images),
        ProductionModels(Path("unused")),
        index,
        Finder(TwinPoints(client)),
        FakeImages(images),
        ImageLimits(),
        on_label=lambda version: None,
    )
    request = search_pb2.SearchRequest(model="models/tile", item=f"items/{UUID(int=0)}", limit=3)
    request.region.CopyFrom(Region(width=64, height=64))
    context: Any = FakeContext()
    responses = [response async for response in servicer.Search(request, context)]
    found = [response.hit for response in responses[: len(hits)]]
    similarities = [round(hit.match.similarity, 3) if hit.HasField("match") else None for hit in found]
    assert similarities == hits
    assert [response.page for response in responses[len(hits) :]] == pages
