# SPDX-License-Identifier: Apache-2.0
"""The memory bank of PatchCore in NumPy, see ``detectors.patchcore.memory_bank`` for the method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blemish_core.platform.threads import divided

if TYPE_CHECKING:
    from blemish_core.detectors.patchcore.inverted_lists import InvertedLists

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

INDEXED_FROM = 2048
"""Number of entries from which the bank has an index; smaller banks are fast without."""
FIRST_CHECKED = 1
"""Patches of the first exact search, usually enough. It doubles until the farthest is certain."""
ONE_BY_ONE = 4
"""Number of patches up to which they search one by one; a matrix product is faster for more."""
SCRATCH = 1 << 20
"""Distances in memory at a time: 4 MiB fit a core's cache."""


@dataclass(frozen=True)
class NearestEntries:
    """The nearest bank entries of the P patches of one image."""

    distances: Floats
    """(P,), distances to the nearest entry, divided by the expected ones if given.

    Exact for the farthest patch, upper bounds for all others.
    """
    rows: Integers
    """(P,), row numbers of the entries."""
    farthest: int
    """Number of the patch with the greatest distance."""


class ServedBank:
    """Entries (N, D) of normal patches. Searches are thread-safe."""

    def __init__(
        self, entries: Floats, centroids: Floats | None = None, supports: NDArray[np.int32] | None = None
    ) -> None:
        """Rebuild the index of a large bank from its ``centroids`` (L, D).

        Args:
            entries: (N, D).
            centroids: (L, D); None for a small bank, or one of an older version.
            supports: (N, b), row numbers of the entries around each entry.
        """
        self._entries = np.ascontiguousarray(entries)
        self._squares: Floats = np.square(self._entries).sum(1)
        self._supports = supports
        self._lists: InvertedLists | None = None
        if len(entries) >= INDEXED_FROM:
            self._lists = _lists(self._entries, centroids)

    @property
    def bytes(self) -> int:
        """Memory of the entries, their squared lengths, the index and the supports."""
        held = self._entries.nbytes + self._squares.nbytes
        held += self._supports.nbytes if self._supports is not None else 0
        return held + (self._lists.bytes if self._lists else 0)

    def nearest(
        self, patches: Floats, grid: tuple[int, int] | None = None, expected: Floats | None = None
    ) -> NearestEntries:
        """Return the nearest entries of the patches (P, D), contiguous, of one image.

        Args:
            patches: (P, D).
            grid: rows and columns of the patches.
            expected: (P,), positive; distances are divided by it.
        """
        if self._lists is not None:
            units = np.ones(1, np.float32) if expected is None else expected
            return self._find_farthest(patches, self._lists, *self._lists.search(patches, grid), units)
        parts = divided(lambda start, end: self._exact(patches[start:end]), len(patches))
        distances, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
        if expected is not None:
            distances = distances / expected
        return NearestEntries(distances, rows, int(distances.argmax()))

    def image_score(self, patches: Floats, nearest: NearestEntries, neighbors: int) -> np.float32:
        """Return the image score: the distance of the farthest patch, weighted as in equation 7."""
        farthest = nearest.farthest
        score = np.float32(nearest.distances[farthest])
        if neighbors == 1:
            return score
        row = int(nearest.rows[farthest])
        support = self._around(row, neighbors) if self._supports is None else self._supports[row]
        to_support = _lengths(self._entries[support] - patches[farthest])
        weights = np.exp(to_support - to_support.max())
        return np.float32(score * (1 - weights[0] / weights.sum()))

    def _around(self, row: int, neighbors: int) -> Integers:
        """Return row numbers (b,) of the entries nearest to an entry, itself first."""
        squares = self._squares - 2 * (self._entries @ self._entries[row])
        count = min(neighbors, len(squares))
        found = squares.argpartition(count - 1)[:count]
        nearest: Integers = found[squares[found].argsort()]
        return nearest

    def _find_farthest(
        self, patches: Floats, lists: "InvertedLists", bounds: Floats, rows: Integers, units: Floats
    ) -> NearestEntries:
        """Find the farthest of patches (P, D), given upper bounds (P,) and their entries (P,).

        The patches are compared by distance divided by ``units``, (P,) or (1,).
        """
        exact = np.zeros(len(patches), dtype=np.bool_)
        step = FIRST_CHECKED
        while True:
            open_bounds = np.where(exact, -np.inf, bounds / units)
            if step < len(exact):
                checked = open_bounds.argpartition(-step)[-step:]
            else:
                checked = np.flatnonzero(~exact)
            if step <= ONE_BY_ONE:
                for patch in checked:
                    bounds[patch], rows[patch] = lists.closest(patches[patch], bounds[patch], rows[patch])
            else:
                bounds[checked], rows[checked] = self._exact(patches[checked])
            exact[checked] = True
            far = bounds / units
            farthest = int(np.where(exact, far, -np.inf).argmax())
            if exact.all() or far[farthest] >= far[~exact].max():
                return NearestEntries(far, rows, farthest)
            # Other patches are often nearest to the same entries. Without this, every patch of a flat or
            # saturated frame would need an exact search.
            for row in np.unique(rows[checked]):
                to_found = _lengths(patches - self._entries[row])
                closer = (to_found < bounds) & ~exact
                bounds[closer], rows[closer] = to_found[closer], row
            step *= 2

    def _exact(self, patches: Floats) -> tuple[Floats, Integers]:
        """Return distance and row number of the nearest entry of each of patches (P, D), by brute force."""
        count, block = len(patches), max(256, SCRATCH // len(patches))
        best = np.full(count, np.inf, np.float32)
        rows = np.zeros(count, np.int64)
        opposite = -2 * patches
        for start in range(0, len(self._squares), block):
            part = slice(start, start + block)
            # Squared distances, less the patch's own square, which does not change the order.
            squares = opposite @ self._entries[part].T
            squares += self._squares[part]
            lowest = squares.min(1)
            better = np.flatnonzero(lowest < best)
            best[better] = lowest[better]
            rows[better] = squares[better].argmin(1) + start
        # From differences, to stay exact where distances are small relative to the lengths.
        return _lengths(patches - self._entries[rows]), rows


def _lists(entries: Floats, centroids: Floats | None) -> "InvertedLists | None":
    from blemish_core.detectors.patchcore.inverted_lists import InvertedLists

    if centroids is not None:
        return InvertedLists(entries, centroids)
    try:
        return InvertedLists.build(entries)
    except ModuleNotFoundError:  # an older version, and no k-means here: its search reads all entries
        return None


def _lengths(vectors: Floats) -> Floats:
    """Return the lengths (N,) of vectors (N, D)."""
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return lengths
