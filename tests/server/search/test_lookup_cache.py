# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.platform.errors import NotFound
from blemish_server.search.lookup_cache import LookupCache


class Store:
    """A lookup that counts its calls."""

    def __init__(self) -> None:
        self.versions = {"tile": 1}
        self.lookups = 0

    def __call__(self, name: str) -> int:
        self.lookups += 1
        if name not in self.versions:
            raise NotFound(f"there is no {name}")
        return self.versions[name]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(store: Store, clock: Clock) -> LookupCache[str, int]:
    return LookupCache(store, ttl_s=0.25, timer=clock)


async def test_result_is_looked_up_once_within_its_lifetime(
    cache: LookupCache[str, int], store: Store, clock: Clock
) -> None:
    assert [await cache.get("tile") for _ in range(5)] == [1] * 5
    assert store.lookups == 1
    store.versions = {"tile": 2, "grid": 7}
    assert await cache.get("grid") == 7
    clock.now_s += 0.2
    assert await cache.get("tile") == 1
    clock.now_s += 0.1
    assert await cache.get("tile") == 2


async def test_refresh_updates_the_result_for_later_calls(
    cache: LookupCache[str, int], store: Store
) -> None:
    assert await cache.get("tile") == 1
    store.versions["tile"] = 2
    assert await cache.refresh("tile") == 2
    assert await cache.get("tile") == 2
    assert store.lookups == 2


async def test_failed_lookup_is_repeated(cache: LookupCache[str, int], store: Store) -> None:
    with pytest.raises(NotFound):
        await cache.get("grid")
    store.versions["grid"] = 7
    assert await cache.get("grid") == 7
