# SPDX-License-Identifier: Apache-2.0
"""Thread settings of numeric libraries. Except for ``all_cores``, each applies to the whole process."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_thread = threading.local()


def use_passive_waiting() -> None:
    """Make idle OpenMP threads sleep; call this before torch or scikit-learn is imported.

    Each library loads its own OpenMP. By default its idle threads spin for a while, on cores that the
    threads of the other library and of OpenVINO need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def share_cores(lanes: int) -> None:
    """Limit OpenMP and NumPy's BLAS to an equal share of the cores for each of ``lanes`` compute threads.

    Call this before torch is imported: later settings apply to the calling thread only. NumPy may be
    imported already. Without a limit, its matrix products in one lane wait for those in another.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // lanes)))
    threadpool_limits(compute_threads(), user_api="blas")


def compute_threads() -> int:
    """Return the number of threads of one computation: torch's, or as many as NumPy's BLAS takes.

    It is the number of cores inside ``all_cores``.
    """
    if has_all_cores():
        return os.cpu_count() or 1
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def disable_opencv_threads() -> None:
    """Make OpenCV run in the calling thread, because each decoding thread already has a core."""
    import cv2

    cv2.setNumThreads(0)


@contextmanager
def all_cores() -> Iterator[None]:
    """Let computations of the calling thread use all cores within the block, not only its share."""
    before = has_all_cores()
    _thread.has_all_cores = True
    try:
        yield
    finally:
        _thread.has_all_cores = before


def has_all_cores() -> bool:
    """Return whether the calling thread is in an ``all_cores`` block."""
    return getattr(_thread, "has_all_cores", False)
