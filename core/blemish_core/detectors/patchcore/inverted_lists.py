# SPDX-License-Identifier: Apache-2.0
"""Inverted lists over a memory bank (Sivic & Zisserman, ICCV 2003), with entries in 8 bits.

k-means partitions the entries into lists. A query reads only the lists with the nearest centroids, so it
finds an entry that is near, usually the nearest. The four patches of a 2 x 2 cell share their lists,
because neighbouring patches are similar and shared lists are read only once.

Memory bandwidth limits the search, so entries are read as 8-bit codes, a quarter of their bytes. Returned
distances are those of the entries themselves. An exact search is possible too, because the distance between
an entry and its code bounds the error.
"""

import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.patchcore.code_scan import nearest_code, nearest_entry
from blemish_core.platform.threads import divided

Floats = NDArray[np.float32]

# The number of lists grows with the square root of the entries, which balances the search for lists against
# the search in them. More probes are slower and more exact. Compare with bench_neighbours.
_LISTS_PER_ROOT = 3
_ENTRIES_READ = 224  # per query, for the number of probes
_MIN_PROBES = 4
_ITERATIONS = 10
_KMEANS_ENTRIES = 64  # per list; bounds the time of k-means on large banks
_BLOCK = 4096  # entries assigned to lists at a time; bounds the distances in memory


class InvertedLists:
    """Lists of the entries (N, D) of a memory bank around ``centroids`` (L, D). Searches are thread-safe.

    The entries are not copied; ``bytes`` counts their codes and the lists.
    """

    def __init__(self, entries: Floats, centroids: Floats) -> None:
        self.centroids = np.ascontiguousarray(centroids)
        self._squares: Floats = np.square(self.centroids).sum(1)
        self._entries = np.ascontiguousarray(entries)
        probes = max(_MIN_PROBES, round(_ENTRIES_READ * len(centroids) / len(entries)))
        self._probes = min(probes, len(centroids))

        blocks = range(0, len(entries), _BLOCK)
        owners = np.concatenate(
            [self._to_lists(self._entries[start : start + _BLOCK]).argmin(1) for start in blocks]
        )
        sizes = np.bincount(owners, minlength=len(centroids))
        self._ends = np.concatenate([[0], sizes.cumsum()])
        self._rows = owners.argsort(stable=True)
        in_order = self._entries[self._rows]
        # Avoids a step of zero in dimensions where all entries are zero.
        self._step = np.maximum(np.abs(in_order).max(0), np.finfo(np.float32).tiny) / np.float32(127)
        self._codes = np.rint(in_order / self._step).astype(np.int8)
        decoded = self._codes * self._step
        self._half_squares = np.square(decoded).sum(1) / 2
        self._errors = np.linalg.norm(in_order - decoded, axis=1)

    @classmethod
    def build(cls, entries: Floats) -> "InvertedLists":
        """Build lists for entries (N, D) by k-means."""
        # Imported on demand: they take a second, and bundles contain their centroids.
        import torch
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        lists = min(len(entries), int(_LISTS_PER_ROOT * len(entries) ** 0.5))
        order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))
        learned = entries[order[: _KMEANS_ENTRIES * lists].numpy()]
        kmeans = KMeans(lists, init="random", n_init=1, max_iter=_ITERATIONS, tol=0, random_state=0)
        with warnings.catch_warnings():
            # Fewer distinct entries than lists only leave some lists empty.
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans.fit(learned)
        return cls(entries, kmeans.cluster_centers_)

    @property
    def bytes(self) -> int:
        """Memory in addition to the bank: codes, row numbers, lengths and errors of entries, centroids."""
        arrays = (self._codes, self._rows, self._half_squares, self._errors, self._ends, self._step)
        return sum(array.nbytes for array in arrays) + self.centroids.nbytes + self._squares.nbytes

    def search(
        self, patches: Floats, grid: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return an entry near each query.

        Args:
            patches: (Q, D), contiguous queries.
            grid: (rows, columns), if they are the patches of an image, row by row.

        Returns:
            The distance to the entry (Q,), an upper bound of that to the nearest one, and its row number
            (Q,). The distance is infinite if the lists read were empty.
        """
        cells = _cells(grid) if grid else np.arange(len(patches))[:, None].repeat(4, 1)
        means = sum(patches[corner] for corner in cells.T) / 4
        distances = np.full(len(patches), np.inf, np.float32)
        rows = np.zeros(len(patches), np.int64)

        def scan(first: int, end: int) -> None:
            nearest_code(
                patches,
                cells[first:end],
                self._to_lists(means[first:end]),
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

        divided(scan, len(cells))
        return distances, rows

    def closest(self, patch: Floats, bound: float, row: int) -> tuple[float, int]:
        """Return the exact distance from a patch (D,) to the nearest entry, and its row number.

        ``bound`` is the distance to the entry ``row``. The smaller it is, the fewer entries are read.
        """

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

        distance, nearest = min(divided(scan, len(self._codes)))
        return float(distance), nearest

    def _to_lists(self, points: Floats) -> Floats:
        """Return squared distances (P, L) of points (P, D) to the centroids, less a constant per row."""
        distances: Floats = (-2 * points) @ self.centroids.T
        distances += self._squares
        return distances


@cache
def _cells(grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return the patches (C, 4) of each 2 x 2 cell; at an odd edge a patch is its own neighbour."""
    rows, columns = grid
    above, left = np.arange(0, rows, 2)[:, None], np.arange(0, columns, 2)
    below, right = np.minimum(above + 1, rows - 1), np.minimum(left + 1, columns - 1)
    corners = [row * columns + column for row in (above, below) for column in (left, right)]
    return np.stack([corner.ravel() for corner in corners], axis=1)
