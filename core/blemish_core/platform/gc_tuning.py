# SPDX-License-Identifier: Apache-2.0
"""Pauses of Python's cyclic garbage collector, which stops every thread of a process while it runs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Python's default of 700 suits programs with few objects.
_NEW_OBJECTS = 10_000


def collect_less_often() -> None:
    """Collect garbage when there are 10,000 new objects.

    For servers: a thousand calls in progress are so many objects that collections take a third of the time.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection, for the import of large libraries.

    Nearly all objects that torch, anomalib or qdrant-client create at import stay alive. Scanning them
    repeatedly takes a considerable part of the import time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def gc_frozen_after() -> Iterator[None]:
    """Pause garbage collection and exclude all objects that exist at the end from later collections.

    For the start of a process: each later full collection would scan the imported modules again. Garbage
    that exists at the end is never freed.
    """
    with gc_paused():
        yield
        gc.freeze()
