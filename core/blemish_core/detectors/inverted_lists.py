# SPDX-License-Identifier: Apache-2.0
"""Inverted lists over a memory bank (Sivic & Zisserman, ICCV 2003), searched by faiss (arXiv:2401.08281).

k-means parts the entries into lists. A query reads only the lists whose centroids lie nearest to it, so
what it finds is an entry near it, mostly the nearest. Patches of an image choose their lists by fours:
neighbours look alike, and choosing for each took a third of the time.
"""

from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# On 28,000 x 152 entries of real features, one core: 4, 6, 8 probes took 4.0, 5.3, 7.4 ms for 1,024 patches
# and were 1.2, 0.8, 0.6 % above the nearest on average; where each patch chooses for itself 5.1, 6.4, 8.1
# ms and 1.1, 0.8, 0.6 %. Lists by the root of the entries balance the search for them against that in them.
_LISTS_PER_ROOT = 3
_ENTRIES_READ = 224  # per query: 4 probes of 28,000 entries, more where lists are shorter
_LEAST_PROBES = 4
# faiss's way to share queries out among threads: lists are chosen for all at once, then each thread takes
# the next query. Its default halves the queries first: 1.4 times as long on two cores, equal on one.
_BY_QUERY = 3
_ITERATIONS = 10
_MOST_LEARNED = 64  # entries per list that k-means looks at: bounds its time on large banks


class InvertedLists:
    """Lists of the entries (N, D) of a memory bank around ``centroids`` (L, D).

    faiss keeps the entries a second time, in the order of the lists: ``bytes`` counts them.
    """

    def __init__(self, entries: Tensor, centroids: Tensor) -> None:
        dimensions = entries.shape[1]
        self.centroids = centroids.contiguous()
        self._squares = self.centroids.square().sum(1)
        coarse = faiss.IndexFlatL2(dimensions)
        coarse.add(self.centroids.numpy())
        self._lists: Any = faiss.IndexIVFFlat(coarse, dimensions, len(centroids))  # typed as its C++ is
        self._lists.is_trained = True
        probes = max(_LEAST_PROBES, round(_ENTRIES_READ * len(centroids) / len(entries)))
        self._lists.nprobe = min(probes, len(centroids))
        self._lists.parallel_mode = _BY_QUERY
        self._lists.add(entries.contiguous().numpy())

    @classmethod
    def build(cls, entries: Tensor) -> "InvertedLists":
        """Find lists for entries (N, D), float32 on the CPU."""
        kmeans = faiss.Kmeans(
            entries.shape[1],
            min(len(entries), int(_LISTS_PER_ROOT * len(entries) ** 0.5)),
            niter=_ITERATIONS,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=_MOST_LEARNED,
        )
        kmeans.train(entries.contiguous().numpy())
        return cls(entries, torch.from_numpy(np.array(kmeans.centroids)))

    @property
    def bytes(self) -> int:
        """Memory beside the bank: entries, their row numbers (int64), centroids twice, their lengths."""
        rows, dimensions = self._lists.ntotal, self._lists.d
        return int(rows * (dimensions * 4 + 8)) + 2 * self.centroids.nbytes + self._squares.nbytes

    def search(
        self, queries: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return an entry near each of queries (Q, D): the distance to it (Q,), its row number (Q,).

        The distance is never below that to the nearest entry; infinite where nothing was found. ``grid`` is
        (rows, columns) of queries that are the patches of an image, row by row.
        """
        patches = queries.contiguous().numpy()
        if grid is None:
            squares, rows = self._lists.search(patches, 1)
        else:
            squares, rows = self._lists.search_preassigned(patches, 1, self._near(patches, grid), None)
        distances, found = np.sqrt(squares[:, 0]), rows[:, 0]
        if found.min() < 0:
            distances[found < 0], found[found < 0] = np.inf, 0
        return distances, found

    def _near(self, patches: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.int64]:
        """The lists (P, probes) that each of patches (P, D) reads: the nearest to the mean of its four."""
        rows, columns = grid
        image = patches.reshape(rows, columns, -1)
        halves = image[::2] + image[_next_to(rows)]
        means = (halves[:, ::2] + halves[:, _next_to(columns)]) / 4
        squares = torch.addmm(
            self._squares, torch.from_numpy(means).flatten(0, 1), self.centroids.T, alpha=-2
        )  # less a constant of each row
        lists = squares.topk(self._lists.nprobe, largest=False, sorted=False).indices.numpy()
        of_cells: NDArray[np.int64] = lists.reshape(*means.shape[:2], -1)
        return of_cells.repeat(2, 0).repeat(2, 1)[:rows, :columns].reshape(rows * columns, -1)


def _next_to(count: int) -> NDArray[np.int64]:
    """What makes a pair with 0, 2, ... of ``count``: the last one of an odd count is its own."""
    return np.minimum(np.arange(1, count + 1, 2), count - 1)
