# SPDX-License-Identifier: Apache-2.0
"""Garbage is not looked for while modules are loaded."""

import gc
from collections.abc import Iterator

import pytest

from blemish_core.platform.gc_tuning import gc_frozen_after, gc_paused


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_it_is_not_looked_for_meanwhile_and_then_as_before() -> None:
    for context in (gc_paused, gc_frozen_after):
        with context():
            assert not gc.isenabled()
        assert gc.isenabled()
        gc.disable()
        with context():
            assert not gc.isenabled()
        assert not gc.isenabled()
        gc.enable()


def test_a_module_that_cannot_be_loaded_leaves_it_on() -> None:
    for context in (gc_paused, gc_frozen_after):
        with pytest.raises(ImportError), context():
            raise ImportError
        assert gc.isenabled()


def test_what_was_loaded_for_good_is_looked_at_no_more() -> None:
    before = gc.get_freeze_count()
    with gc_frozen_after():
        made: list[object] = [[]]
    assert gc.get_freeze_count() > before
    assert not any(one is made for one in gc.get_objects())
