# SPDX-License-Identifier: Apache-2.0
"""Ordered listings and short names of items in the embedded Qdrant, or in the server at QDRANT_URL."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from qdrant_client import QdrantClient

from blemish_core.platform.errors import InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import ANY_ITEM, Comparison, Condition
from blemish_core.search.item import Item, item_id
from blemish_core.search.search_index import ItemOrder, OrderedAfter, SearchIndex, published_alias

COUNT, SIZE = 120, 8
START = datetime(2026, 12, 1, 6, 0, 0, 123_457, tzinfo=UTC)
ORDERS = [
    ItemOrder("time"),
    ItemOrder("time", descending=True),
    ItemOrder("score"),
    ItemOrder("score", descending=True),
]


@pytest.fixture
def version(qdrant: QdrantClient) -> Iterator[ModelRef]:
    """Return a version whose published index has items, of which four at a time have equal values."""
    version, index = ModelRef(f"ordered-{uuid4().hex}", 1), SearchIndex(qdrant)
    index.prepare(version, SIZE)
    vectors = np.random.default_rng(5).normal(size=(COUNT, SIZE)).astype(np.float32)
    index.put(version, made_items(version), vectors)
    index.publish(version)
    unknown: list[Any] = [str(item.id) for item in made_items(version)[:6]]
    qdrant.delete_payload(published_alias(version), ["time"], points=unknown, wait=True)
    yield version
    index.drop(version)


def made_items(version: ModelRef) -> list[Item]:
    scores = np.random.default_rng(6).normal(size=COUNT).astype(np.float32)
    return [
        Item(
            item_id(version, str(number)),
            sha256=str(number),
            score=float(scores[number // 4]),
            p_value=0.1,
            anomalous=number % 2 == 0,
            time=START + timedelta(microseconds=number // 4),
        )
        for number in range(COUNT)
    ]


def pages(
    index: SearchIndex, version: ModelRef, order: ItemOrder, size: int, where: Condition
) -> list[Item]:
    found: list[Item] = []
    after: OrderedAfter | None = None
    while True:
        page, after = index.ordered_items(version, where, order, size, after)
        found += page
        if after is None:
            return found
        assert len(page) == size


@pytest.mark.parametrize("size", [1, 3, 4, 17, COUNT, 1000])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order.key}-{order.descending}")
def test_pages_of_a_qdrant_have_each_item_once_in_order(
    qdrant: QdrantClient, version: ModelRef, order: ItemOrder, size: int
) -> None:
    index = SearchIndex(qdrant)
    for where in (ANY_ITEM, Comparison("anomalous", "=", True)):
        found = pages(index, version, order, size, where)
        expected = [item for item in made_items(version) if where == ANY_ITEM or item.anomalous]
        unknown = {item.id for item in made_items(version)[:6]} if order.key == "time" else set()
        known = [item for item in expected if item.id not in unknown]
        known.sort(key=lambda item: item.id)
        known.sort(key=lambda item: order.value_of(item) or 0, reverse=order.descending)
        last = sorted(item.id for item in expected if item.id in unknown)
        assert [item.id for item in found] == [item.id for item in known] + last


def test_short_names_are_found_in_a_qdrant(qdrant: QdrantClient, version: ModelRef) -> None:
    index, made = SearchIndex(qdrant), made_items(version)
    for item in made:
        assert index.resolve_item(version, f"items/{item.id.hex[:12]}") == item.id
    edges = [
        replace(made[0], id=UUID(int=0)),
        replace(made[1], id=UUID(int=(1 << 128) - 1)),
        replace(made[2], id=UUID("abcdef00-0000-0000-0000-000000000001")),
        replace(made[3], id=UUID("abcdef00-0000-0000-0000-000000000002")),
    ]
    index.put(version, edges, np.ones((4, SIZE), np.float32))
    assert index.resolve_item(version, "items/00000000") == UUID(int=0)
    assert index.resolve_item(version, "items/ffffffff-ffff") == UUID(int=(1 << 128) - 1)
    with pytest.raises(InvalidRequest, match="fits several items"):
        index.resolve_item(version, "items/abcdef00")
    with pytest.raises(NotFound):
        index.resolve_item(version, "items/abcdef01")
    newest = index.item(version, index.resolve_item(version, "items/latest"))
    assert newest.time == START + timedelta(microseconds=COUNT // 4 - 1)
