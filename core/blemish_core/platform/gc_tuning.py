# SPDX-License-Identifier: Apache-2.0
"""When Python looks for garbage in cycles, which takes time and holds everybody up."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Do not look for garbage while modules are loaded.

    Of the hundred thousands of objects that torch, anomalib or qdrant-client make when they are imported
    nearly all stay for good, and to look at them again and again is a quarter to a third of that time.
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
    """Do not look for garbage while modules are loaded, nor ever again among what they made.

    For the start of a process: it would be looked at whenever a quarter more has come to stay, and nothing
    else runs meanwhile, 0.2 to 0.4 s with what a server imports. What was garbage by then is kept, too.
    """
    with gc_paused():
        yield
        gc.freeze()
