# SPDX-License-Identifier: Apache-2.0
"""Inverted lists over a memory bank (Sivic & Zisserman, ICCV 2003), of entries in 8 bits.

k-means parts the entries into lists. A query reads only the lists whose centroids lie nearest to it, so
what it finds is an entry near it, mostly the nearest. Patches of an image choose their lists by fours:
neighbours look alike, choosing for each takes long, and four that read the same entries read them once.

Reading is what takes the time, so entries are read as 8-bit codes, a quarter of their bytes. Distances to
what is found are of the entries themselves, and so is the search for *the* nearest one: how far each
entry lies from its code bounds what the code's distance says of the entry's.
"""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.detectors.patchcore.code_scan import nearest_code, nearest_entry

_Found = TypeVar("_Found")

# On 28,000 x 152 entries of real features, one core: 4, 6, 8 probes took 5.2, 7.6, 9.7 ms for 1,024 patches
# and were 1.2, 0.8, 0.6 % above the nearest on average (1.1, 0.7, 0.6 % where each patch chooses for
# itself). Lists by the root of the entries balance the search for them against that in them.
_LISTS_PER_ROOT = 3
_ENTRIES_READ = 224  # per query: 4 probes of 28,000 entries, more where lists are shorter
_LEAST_PROBES = 4
_ITERATIONS = 10
_MOST_LEARNED = 64  # entries per list that k-means looks at: bounds its time on large banks
_BLOCK = 4096  # entries given to their lists at once: bounds the distances held


class InvertedLists:
    """Lists of the entries (N, D) of a memory bank around ``centroids`` (L, D); threads may search at once.

    ``entries`` are not copied; their codes and what belongs to them are counted by ``bytes``.
    """

    def __init__(self, entries: Tensor, centroids: Tensor) -> None:
        self.centroids = centroids.contiguous()
        self._squares = self.centroids.square().sum(1)
        self._entries: NDArray[np.float32] = entries.contiguous().numpy()
        probes = max(_LEAST_PROBES, round(_ENTRIES_READ * len(centroids) / len(entries)))
        self._probes = min(probes, len(centroids))

        owners = torch.cat([self._to_lists(some).argmin(1) for some in torch.split(entries, _BLOCK)])
        sizes = torch.bincount(owners, minlength=len(centroids))
        self._ends = np.concatenate([[0], sizes.cumsum(0).numpy()])
        self._rows = owners.argsort(stable=True).numpy()
        in_order = self._entries[self._rows]
        # A dimension in which all entries are zero has any step.
        self._step = np.maximum(np.abs(in_order).max(0), np.finfo(np.float32).tiny) / np.float32(127)
        self._codes = np.rint(in_order / self._step).astype(np.int8)
        decoded = self._codes * self._step
        self._half_squares = np.square(decoded).sum(1) / 2
        self._errors = np.linalg.norm(in_order - decoded, axis=1)

    @classmethod
    def build(cls, entries: Tensor) -> "InvertedLists":
        """Find lists for entries (N, D), float32 on the CPU."""
        # A second to load, and bundles bring their centroids.
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        lists = min(len(entries), int(_LISTS_PER_ROOT * len(entries) ** 0.5))
        order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))
        learned = entries[order[: _MOST_LEARNED * lists]].numpy()
        kmeans = KMeans(lists, init="random", n_init=1, max_iter=_ITERATIONS, tol=0, random_state=0)
        with warnings.catch_warnings():
            # Fewer distinct entries than lists leave lists empty, and nothing is lost.
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans.fit(learned)
        return cls(entries, torch.from_numpy(kmeans.cluster_centers_))

    @property
    def bytes(self) -> int:
        """Memory beside the bank: codes, row numbers, lengths and errors of entries, centroids."""
        arrays = (self._codes, self._rows, self._half_squares, self._errors, self._ends, self._step)
        return sum(array.nbytes for array in arrays) + self.centroids.nbytes + self._squares.nbytes

    def search(
        self, queries: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return an entry near each of queries (Q, D): the distance to it (Q,), its row number (Q,).

        The distance is never below that to the nearest entry; infinite where nothing was found. ``grid`` is
        (rows, columns) of queries that are the patches of an image, row by row.
        """
        patches: NDArray[np.float32] = queries.contiguous().numpy()
        cells = _cells(grid) if grid else np.arange(len(patches))[:, None].repeat(4, 1)
        means = sum(patches[corner] for corner in cells.T) / 4
        to_lists = self._to_lists(torch.from_numpy(means)).numpy()
        distances = np.full(len(patches), np.inf, np.float32)
        rows = np.zeros(len(patches), np.int64)

        def scan(first: int, end: int) -> None:
            nearest_code(
                patches,
                cells[first:end],
                to_lists[first:end],
                self._probes,
                self._ends,
                self._step,
                self._codes,
                self._half_squares,
                self._rows,
                self._entries,
                distances,
                rows,
            )

        _in_parts(scan, len(cells))
        return distances, rows

    def closest(self, query: Tensor, bound: float, row: int) -> tuple[float, int]:
        """Return the distance from a query (D,) to *the* nearest entry, and its row number.

        ``bound`` is the distance to the entry ``row``: the nearer that is, the fewer entries are looked at.
        """
        patch = query.contiguous().numpy()

        def scan(first: int, end: int) -> tuple[np.float32, int]:
            return nearest_entry(
                patch,
                self._step,
                self._codes[first:end],
                self._half_squares[first:end],
                self._errors[first:end],
                self._rows[first:end],
                self._entries,
                np.float32(bound),
                row,
            )

        distance, nearest = min(_in_parts(scan, len(self._codes)))
        return float(distance), nearest

    def _to_lists(self, points: Tensor) -> Tensor:
        """Squared distances (P, L) of points (P, D) to the centroids, less a constant of each row."""
        return torch.addmm(self._squares, points, self.centroids.T, alpha=-2)


@cache
def _cells(grid: tuple[int, int]) -> NDArray[np.int64]:
    """The patches (C, 4) of each cell of 2 x 2; at an odd edge a patch is its own neighbour."""
    rows, columns = grid
    above, left = np.arange(0, rows, 2)[:, None], np.arange(0, columns, 2)
    below, right = np.minimum(above + 1, rows - 1), np.minimum(left + 1, columns - 1)
    corners = [row * columns + column for row in (above, below) for column in (left, right)]
    return np.stack([corner.ravel() for corner in corners], axis=1)


def _in_parts(work: Callable[[int, int], _Found], count: int) -> list[_Found]:
    """Call ``work`` with the first and the end of each thread's part of ``count``."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        return [work(0, count)]
    edges = [count * part // threads for part in range(threads + 1)]
    return list(_threads(os.getpid()).map(work, edges[:-1], edges[1:]))


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Of this process: threads do not come along when one forks."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="lists")
