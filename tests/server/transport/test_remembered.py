# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.platform.errors import NotFound
from blemish_server.transport.remembered import Remembered


class Store:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.kept = {"tile": 1}
        self.looks = 0

    def __call__(self, name: str) -> int:
        self.looks += 1
        if name not in self.kept:
            raise NotFound(f"there is no {name}")
        return self.kept[name]


@pytest.fixture
def store() -> Store:
    return Store()


async def test_it_is_looked_up_once_in_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("blemish_server.transport.remembered.monotonic", lambda: now_s)
    version = Remembered(store)
    assert [await version.recent("tile") for _ in range(5)] == [1] * 5
    assert store.looks == 1
    store.kept = {"tile": 2, "grid": 7}
    assert await version.recent("grid") == 7
    assert await version.recent("tile") == 1
    now_s += 0.3
    assert await version.recent("tile") == 2


async def test_what_hardly_changes_is_remembered_for_longer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("blemish_server.transport.remembered.monotonic", lambda: now_s)
    length = Remembered(store, for_s=60)
    assert await length.recent("tile") == 1
    now_s += 59
    assert await length.recent("tile") == 1
    assert store.looks == 1
    now_s += 2
    assert await length.recent("tile") == 1
    assert store.looks == 2


async def test_who_must_know_looks_and_all_know_it_from_there_on(store: Store) -> None:
    version = Remembered(store)
    assert await version.recent("tile") == 1
    store.kept["tile"] = 2
    assert await version.now("tile") == 2
    assert await version.recent("tile") == 2
    assert store.looks == 2


async def test_what_is_not_there_is_looked_for_again(store: Store) -> None:
    version = Remembered(store)
    with pytest.raises(NotFound):
        await version.recent("grid")
    store.kept["grid"] = 7
    assert await version.recent("grid") == 7
