# SPDX-License-Identifier: Apache-2.0
"""The class of a defect by the labelled items that are nearest to it."""

import secrets
from collections.abc import Sequence
from uuid import UUID

import numpy as np
import pytest

from blemish_core.search.labelled_items import (
    NEIGHBORS,
    NO_CLASS,
    Consensus,
    DefectClass,
    LabelledItems,
)
from blemish_core.search.query import Vector


def at(*degrees: float) -> Vector:
    """Return unit vectors of a plane, of shape (len(degrees), 2)."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def labelled(classes: Sequence[str], vectors: Vector) -> LabelledItems:
    rows = zip(classes, vectors, strict=True)
    return LabelledItems.of((UUID(int=number), name, vector) for number, (name, vector) in enumerate(rows))


QUERY = at(0)[0]


def test_class_of_all_nearest_items_is_unanimous() -> None:
    items = labelled(["crack"] * 8 + ["dent"] * 8, at(*range(1, 9), *range(60, 68)))
    assert items.classify(QUERY) == DefectClass(Consensus.UNANIMOUS, "crack", 1.0, NEIGHBORS)


def test_nearer_items_weigh_more_than_distant_ones() -> None:
    items = labelled(["crack", "dent", "dent", "dent"], at(1, 20, 30, 40))
    found = items.classify(QUERY)
    # 1 against 1/2 + 1/3 + 1/4
    assert (found.consensus, found.name, found.neighbors) == (Consensus.MAJORITY, "dent", 4)
    assert found.share == pytest.approx(13 / 25)
    found = labelled(["crack", "dent", "dent"], at(1, 20, 30)).classify(QUERY)
    assert (found.consensus, found.name) == (Consensus.MAJORITY, "crack")
    assert found.share == pytest.approx(6 / 11)


def test_class_without_a_majority_is_divided() -> None:
    found = labelled(["crack", "dent", "oil", "dent"], at(1, 2, 3, 4)).classify(QUERY)
    assert (found.consensus, found.name) == (Consensus.DIVIDED, "crack")
    assert found.share == pytest.approx(12 / 25)


def test_defect_among_false_alarms_is_not_named() -> None:
    items = labelled(["crack", "crack", "crack", NO_CLASS, NO_CLASS], at(40, 50, 60, 1, 2))
    assert items.classify(QUERY) == DefectClass(Consensus.FALSE_ALARMS, neighbors=5)
    assert items.classify(at(50)[0]).name == "crack"


@pytest.mark.parametrize(
    "classes", [[], ["crack"], ["crack", "dent"], ["crack", "dent", NO_CLASS, NO_CLASS, NO_CLASS]]
)
def test_fewer_than_three_confirmed_items_name_no_class(classes: list[str]) -> None:
    items = labelled(classes, at(*range(len(classes))).reshape(-1, 2))
    assert items.classify(QUERY) == DefectClass(Consensus.TOO_FEW_LABELS)


def test_embedding_of_another_length_belongs_to_another_index() -> None:
    items = labelled(["crack"] * 3, at(1, 2, 3))
    assert items.classify(np.ones(3, np.float32)).consensus is Consensus.TOO_FEW_LABELS


def test_defect_far_from_all_labelled_items_is_of_no_known_class() -> None:
    items = labelled(["crack"] * 19, at(*range(19)))
    assert items.classify(at(19)[0]).name == "crack"
    assert items.classify(at(-2)[0]) == DefectClass(Consensus.DISTANT, neighbors=NEIGHBORS)


def test_too_few_items_for_the_rate_set_no_limit() -> None:
    items = labelled(["crack"] * 18, at(*range(18)))
    assert items.classify(at(170)[0]).name == "crack"


@pytest.mark.parametrize("count", [40, 1500])
def test_at_most_one_in_twenty_defects_of_known_classes_is_distant(count: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    distant = 0
    for _ in range(200 if count == 40 else 4):
        drawn = random.normal(size=(count + 50, 16)).astype(np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        items = labelled(["crack"] * count, drawn[:count])
        distant += sum(items.classify(each).consensus is Consensus.DISTANT for each in drawn[count:])
    queries = 50 * (200 if count == 40 else 4)
    # The rate is an average over draws, whose own rates differ: five standard deviations above it.
    assert 0 < distant < (0.05 + 0.02) * queries if count == 40 else distant < (0.05 + 0.08) * queries


def test_odd_class_names_are_kept_as_typed() -> None:
    odd = "[red]Kratzer / öß\n\t'\"" + "x" * 100
    assert labelled([odd] * 3, at(1, 2, 3)).classify(QUERY).name == odd
