# SPDX-License-Identifier: Apache-2.0
"""Reading of labelled items from Qdrant's in-memory client; a contract test reads the embedded Qdrant."""

import numpy as np
import pytest
from qdrant_client import models as qm
from tests.support.qdrant_twin import VERSION, TwinPoints, filled_index, in_memory_qdrant, items, vectors

from blemish_core.platform.errors import NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.search import label_reader as module
from blemish_core.search.item import Label
from blemish_core.search.label_reader import LabelReader
from blemish_core.search.labelled_items import NO_CLASS, LabelledItems
from blemish_core.search.search_index import SearchIndex, published_alias

# The in-memory client warns about every payload index, because it has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
NOTHING = LabelledItems()


class Labels:
    """An index of 150 items, and a reader of its labels."""

    def __init__(self) -> None:
        self.client = in_memory_qdrant()
        self.index: SearchIndex = filled_index(self.client)
        self.points = TwinPoints(self.client)
        self.reader = LabelReader(self.points)

    def confirm(self, name: str, *numbers: int) -> None:
        self.index.label(VERSION, [items(150)[number].id for number in numbers], Label.CONFIRMED, name)

    async def read(self, known: LabelledItems = NOTHING) -> dict[int, str]:
        """Return the classes of the labelled items, by their numbers."""
        return by_number(await self.reader.read(VERSION, known))


def by_number(read: LabelledItems) -> dict[int, str]:
    numbers = {item.id: int(item.sha256) for item in items(150)}
    return {numbers[id]: name for id, name in zip(read.ids, read.classes, strict=True)}


@pytest.fixture
def labels() -> Labels:
    return Labels()


async def test_only_items_with_a_judgement_are_read(labels: Labels) -> None:
    labels.confirm("scratch", 1, 7)
    labels.confirm("dent", 9)
    labels.confirm("", 11)  # a defect without a class
    labels.index.label(VERSION, [items(150)[2].id], Label.FALSE_ALARM, "")
    labels.index.label(VERSION, [items(150)[3].id], Label.GOOD, "")
    assert await labels.read() == {1: "scratch", 7: "scratch", 9: "dent", 2: NO_CLASS, 3: NO_CLASS}


async def test_embeddings_belong_to_their_items(labels: Labels) -> None:
    labels.confirm("scratch", *range(100))
    read = await labels.reader.read(VERSION, NOTHING)
    numbers = list(by_number(read))
    assert read.vectors == pytest.approx(vectors(150)[numbers], abs=1e-6)


async def test_index_without_labels_or_classes_has_no_labelled_items(labels: Labels) -> None:
    assert await labels.read() == {}
    labels.confirm("", 1, 2, 3)
    assert await labels.read() == {}


async def test_changed_and_removed_labels_are_read_again_but_known_embeddings_are_not(
    labels: Labels,
) -> None:
    labels.confirm("scratch", 1, 2, 3)
    known = await labels.reader.read(VERSION, NOTHING)
    labels.confirm("dent", 2, 5)
    labels.index.label(VERSION, [items(150)[3].id], Label.NONE, "")
    labels.index.remove(VERSION, [items(150)[1].id])
    assert await labels.read(known) == {2: "dent", 5: "dent"}
    assert labels.points.retrieved == [3, 1]


async def test_each_class_contributes_as_many_items_at_most(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels.confirm("scratch", *range(100))
    labels.confirm("dent", 100)
    monkeypatch.setattr(module, "MAX_ITEMS", 30)
    read = list((await labels.read()).values())
    assert (read.count("scratch"), read.count("dent")) == (10, 1)


async def test_only_the_most_frequent_classes_are_read(
    labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels.confirm("rare", 1)
    labels.confirm("scratch", 2, 3, 4)
    labels.confirm("dent", 5, 6)
    monkeypatch.setattr(module, "MAX_CLASSES", 2)
    assert set((await labels.read()).values()) == {"scratch", "dent"}


ODD_NAMES = ("a b", "Kratzer/öß", "'; --", 'quo"te', "[red]", "x" * 128, "line\nbreak")


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
async def test_odd_class_names_are_read_as_typed(labels: Labels, name: str) -> None:
    labels.confirm(name, 4)
    assert await labels.read() == {4: name}


async def test_items_without_a_comparable_embedding_are_left_out(labels: Labels) -> None:
    labels.confirm("scratch", 1, 2, 3)
    ids = [str(items(150)[number].id) for number in (1, 2)]
    labels.client.delete_vectors(published_alias(VERSION), [""], qm.PointIdsList(points=ids[:1]))
    zero = qm.PointVectors(id=ids[1], vector=[0.0] * 8)
    labels.client.update_vectors(published_alias(VERSION), [zero])
    assert await labels.read() == {3: "scratch"}


async def test_embeddings_of_a_replaced_index_are_read_again(labels: Labels) -> None:
    labels.confirm("scratch", 1, 2)
    known = await labels.reader.read(VERSION, NOTHING)
    labels.index.drop(VERSION)
    labels.index.prepare(VERSION, 4)
    labels.index.put(VERSION, items(8), np.eye(8, 4, dtype=np.float32) + 1)
    labels.index.publish(VERSION)
    labels.confirm("scratch", 1, 2, 3)
    read = await labels.reader.read(VERSION, known)
    assert set(by_number(read)) == {1, 2, 3}
    assert read.vectors.shape == (3, 4)


async def test_version_without_a_published_index_is_not_found(labels: Labels) -> None:
    with pytest.raises(NotFound, match="has no index yet"):
        await labels.reader.read(ModelRef("tile", 2), NOTHING)
