# SPDX-License-Identifier: Apache-2.0
import gc
from collections.abc import Iterator

import pytest

from blemish_core.platform.gc_tuning import collect_less_often, gc_frozen_after, gc_paused


@pytest.fixture(autouse=True)
def _collector_enabled_afterwards() -> Iterator[None]:
    yield
    gc.enable()


def test_collection_is_paused_and_restored() -> None:
    for context in (gc_paused, gc_frozen_after):
        with context():
            assert not gc.isenabled()
        assert gc.isenabled()
        gc.disable()
        with context():
            assert not gc.isenabled()
        assert not gc.isenabled()
        gc.enable()


def test_failed_import_restores_collection() -> None:
    for context in (gc_paused, gc_frozen_after):
        with pytest.raises(ImportError), context():
            raise ImportError
        assert gc.isenabled()


def test_frozen_objects_are_not_collected_again() -> None:
    before = gc.get_freeze_count()
    with gc_frozen_after():
        created: list[object] = [[]]
    assert gc.get_freeze_count() > before
    assert not any(each is created for each in gc.get_objects())


def test_servers_collect_less_often() -> None:
    before = gc.get_threshold()
    try:
        collect_less_often()
        assert gc.get_threshold() == (10_000, *before[1:])
    finally:
        gc.set_threshold(*before)
