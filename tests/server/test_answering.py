# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest

from blemish_core.errors import NotFound
from blemish_core.names import ModelRef
from blemish_server.answering import Answering

TILE, ONE, TWO = ModelRef("tile"), ModelRef("tile", 1), ModelRef("tile", 2)


class Index:
    """Is both, store and index; counts how often it is asked."""

    def __init__(self) -> None:
        self.version: ModelRef | None = ONE
        self.looks = 0

    def resolve(self, ref: ModelRef) -> ModelRef:
        self.looks += 1
        if self.version is None:
            raise NotFound("there is no model tile")
        return ref if ref.version else self.version

    def serving(self, ref: ModelRef, version: ModelRef) -> ModelRef:
        return version


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def answering(index: Index) -> Answering:
    either: Any = index
    return Answering(either, either)


async def test_what_a_name_means_is_looked_up_once_in_a_while(
    index: Index, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("blemish_server.answering.monotonic", lambda: now_s)
    assert [await answering.recent(TILE) for _ in range(5)] == [ONE] * 5
    assert index.looks == 1
    index.version = TWO
    now_s += 0.3
    assert await answering.recent(TILE) == TWO
    assert await answering.recent(ONE) == ONE, "a name of its own"


async def test_who_must_know_looks_and_all_know_it_from_there_on(
    index: Index, answering: Answering
) -> None:
    assert await answering.recent(TILE) == ONE
    index.version = TWO
    assert await answering.now(TILE) == TWO
    assert await answering.recent(TILE) == TWO
    assert index.looks == 2


async def test_what_is_not_there_is_looked_for_again(index: Index, answering: Answering) -> None:
    index.version = None
    with pytest.raises(NotFound):
        await answering.recent(TILE)
    index.version = ONE
    assert await answering.recent(TILE) == ONE
