# SPDX-License-Identifier: Apache-2.0
"""Reading of labelled items from the embedded Qdrant, or from the server at QDRANT_URL."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import numpy as np
import pytest

from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item, Label, item_id
from blemish_core.search.label_reader import LabelReader
from blemish_core.search.labelled_items import NO_CLASS, Consensus, LabelledItems
from blemish_core.search.search_index import SearchIndex

if TYPE_CHECKING:
    from tests.contract.conftest import EmbeddedQdrant

COUNT, SIZE = 300, 48
ODD = '[Öl] "fleck" \'n; --'


@pytest.fixture
def version() -> ModelRef:
    return ModelRef(f"labels-{uuid4().hex}", 1)


@pytest.fixture
async def reader(embedded_qdrant: "EmbeddedQdrant") -> AsyncIterator[LabelReader]:
    reader = LabelReader.connect(f"http://{embedded_qdrant.host}:1", embedded_qdrant.port)
    yield reader
    await reader.close()


@pytest.fixture
def index(embedded_qdrant: "EmbeddedQdrant") -> SearchIndex:
    return SearchIndex.connect(f"http://{embedded_qdrant.host}:1", embedded_qdrant.port)


def ids(version: ModelRef, *numbers: int) -> list[UUID]:
    return [item_id(version, str(number)) for number in numbers]


async def test_labels_and_embeddings_are_read_as_they_were_written(
    reader: LabelReader, index: SearchIndex, version: ModelRef
) -> None:
    random = np.random.default_rng(3).normal(size=(COUNT, SIZE)).astype(np.float32)
    embeddings = random / np.linalg.norm(random, axis=1, keepdims=True)
    items = [
        Item(item_id(version, str(number)), sha256=str(number), score=1.0, p_value=0.1, anomalous=True)
        for number in range(COUNT)
    ]
    index.prepare(version, SIZE)
    index.put(version, items, embeddings)
    index.publish(version)
    assert (await reader.read(version, LabelledItems())).ids == ()

    index.label(version, ids(version, *range(0, 200, 2)), Label.CONFIRMED, "crack")
    index.label(version, ids(version, *range(1, 50, 2)), Label.CONFIRMED, ODD)
    index.label(version, ids(version, 201), Label.CONFIRMED, "")
    index.label(version, ids(version, 203), Label.FALSE_ALARM, "")
    index.label(version, ids(version, 205), Label.GOOD, "")
    read = await reader.read(version, LabelledItems())
    classes = dict(zip(read.ids, read.classes, strict=True))
    expected = dict.fromkeys(ids(version, *range(0, 200, 2)), "crack")
    expected |= dict.fromkeys(ids(version, *range(1, 50, 2)), ODD)
    expected |= dict.fromkeys(ids(version, 203, 205), NO_CLASS)
    assert classes == expected
    rows = [next(n for n, item in enumerate(items) if item.id == id) for id in read.ids]
    assert read.vectors == pytest.approx(embeddings[rows], abs=1e-6)

    index.label(version, ids(version, 0, 1), Label.NONE, "")
    index.label(version, ids(version, 3), Label.CONFIRMED, "crack")
    index.remove(version, ids(version, 2))
    again = await reader.read(version, read)
    expected[ids(version, 3)[0]] = "crack"
    for gone in ids(version, 0, 1, 2):
        del expected[gone]
    assert dict(zip(again.ids, again.classes, strict=True)) == expected
    found = again.classify(embeddings[3])
    assert (found.consensus, found.name) == (Consensus.MAJORITY, "crack")
