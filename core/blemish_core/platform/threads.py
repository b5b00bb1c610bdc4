# SPDX-License-Identifier: Apache-2.0
"""Thread settings of numeric libraries. Except for ``all_cores``, each applies to the whole process."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from threadpoolctl import threadpool_limits

_Result = TypeVar("_Result")

_thread = threading.local()


def use_passive_waiting() -> None:
    """Make idle OpenMP threads sleep; call this before torch or scikit-learn is imported.

    Each library loads its own OpenMP. By default its idle threads spin for a while, on cores that the
    threads of the other library and of OpenVINO need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def share_cores(lanes: int) -> None:
    """Limit OpenMP to an equal share of the cores for each of ``lanes`` concurrent compute threads.

    Call this before torch is imported: later settings apply to the calling thread only.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // lanes)))


def compute_threads() -> int:
    """Return the number of threads of one computation: torch's, or the share of a lane.

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


def disable_blas_threads() -> None:
    """Make matrix products of NumPy run in the calling thread, although NumPy is imported already.

    OpenBLAS's idle threads spin for a while, on cores that the network and the search need, and products
    in several lanes wait for each other. The search divides its own work among the threads.
    """
    import numpy  # noqa: F401  # BLAS must be loaded

    threadpool_limits(1, user_api="blas")


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


def divided(work: Callable[[int, int], _Result], count: int) -> list[_Result]:
    """Call ``work`` in ``compute_threads`` threads with the start and the end of each one's share."""
    threads = min(compute_threads(), count)
    if threads == 1:
        return [work(0, count)]
    edges = [count * part // threads for part in range(threads + 1)]
    return list(_threads(os.getpid()).map(work, edges[:-1], edges[1:]))


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a fork does not inherit threads."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compute")
