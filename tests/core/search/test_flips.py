# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.qdrant_twin import VERSION, in_memory_qdrant, items, vectors

from blemish_core.platform.names import ModelRef
from blemish_core.search.flips import find_flips
from blemish_core.search.item import CAMERA, DATASET
from blemish_core.search.search_index import SearchIndex

# The in-memory client warns about every payload index, because it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
WEEK = timedelta(days=7)


@pytest.fixture
def index() -> SearchIndex:
    """Index frames with the scores 0 to 9, frame n from n days ago, and one image of a dataset."""
    index, now = SearchIndex(in_memory_qdrant()), datetime.now(UTC)
    index.prepare(VERSION, 8)
    frames = [
        replace(item, score=float(number), source=CAMERA, time=now - timedelta(days=number, hours=1))
        for number, item in enumerate(items(11))
    ]
    frames[10] = replace(frames[10], score=4.5, source=DATASET, time=now)
    index.put(VERSION, frames, vectors(11))
    index.publish(VERSION)
    return index


def test_frames_between_the_thresholds_flip_and_a_score_at_one_is_normal(index: SearchIndex) -> None:
    higher = find_flips(index, VERSION, 3.0, 5.0, WEEK, 20)
    assert (higher.kept, higher.count, higher.to_anomalous) == (7, 2, False)
    assert [item.score for item in higher.items] == [4.0, 5.0]  # the newest first
    lower = find_flips(index, VERSION, 5.0, 3.0, WEEK, 1)
    assert (lower.count, lower.to_anomalous, [item.score for item in lower.items]) == (2, True, [4.0])


def test_only_frames_of_the_period_are_compared(index: SearchIndex) -> None:
    flips = find_flips(index, VERSION, -1.0, 100.0, timedelta(days=2), 20)
    assert (flips.kept, flips.count) == (2, 2)
    assert find_flips(index, VERSION, -1.0, 100.0, timedelta.max, 20).kept == 10
    assert find_flips(index, VERSION, 4.0, 4.0, WEEK, 20).count == 0


def test_version_without_an_index_has_a_reason(index: SearchIndex) -> None:
    flips = find_flips(index, ModelRef("tile", 9), 3.0, 5.0, WEEK, 20)
    assert "has no index" in flips.unavailable
