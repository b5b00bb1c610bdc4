# SPDX-License-Identifier: Apache-2.0
"""How the threads of numeric libraries share the cores of one process."""

import os


def use_passive_waiting() -> None:
    """Have OpenMP's idle threads sleep; call it before torch or scikit-learn is loaded.

    Each brings an OpenMP of its own, whose threads by default spin for a while when they have nothing to
    do, on the cores that the other one's and OpenVINO's threads need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def share_cores(lanes: int) -> None:
    """Have each of ``lanes`` threads that compute at once use its share of the cores.

    Call it before torch is loaded: what OpenMP is told later holds for the calling thread alone.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // lanes)))
