# SPDX-License-Identifier: Apache-2.0
"""The memory bank of PatchCore (arXiv:2106.08265): distances of patches to normal ones, and image scores.

Computing all distances between the patches of an image and the entries of the bank would take most of the
time of a frame. Inverted lists compute a few percent of them and give an upper bound for each patch. The
image score needs the exact distance of the farthest patch only. So the patches with the highest bounds
search the whole bank, until the distance of one reaches the bounds of all others. This patch is the
farthest, with the same certainty as by computing all distances.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists
from blemish_core.serving.memory_bank import FIRST_CHECKED, INDEXED_FROM, ONE_BY_ONE, SCRATCH

_GPU_SCRATCH = 1 << 26
"""Distances in a GPU's memory at a time, which needs larger products."""


@dataclass(frozen=True)
class Nearest:
    """The nearest bank entries of the P patches of one image."""

    distances: Tensor
    """(P,), distances to the nearest entry, divided by the expected ones if given.

    Exact for the farthest patch, upper bounds for all others.
    """
    rows: Tensor
    """(P,), row numbers of the entries."""
    farthest: Tensor
    """(), number of the patch with the greatest distance."""


class MemoryBank:
    """Entries (N, D) of normal patches on any device, with an index on a CPU from ``indexed_from`` on.

    An index adds about a third to the memory of the entries. A search needs at most 4 MiB more, or 256 MiB
    on a GPU. Searches are thread-safe.
    """

    def __init__(
        self,
        entries: Tensor,
        centroids: Tensor | None = None,
        supports: Tensor | None = None,
        *,
        indexed_from: int = INDEXED_FROM,
    ) -> None:
        """Build the index if the bank is large enough.

        Args:
            entries: (N, D).
            centroids: (L, D), of an index built earlier; None computes them.
            supports: (N, b), a result of ``find_supports`` for the same entries.
            indexed_from: number of entries from which there is an index.
        """
        self._entries = entries.contiguous()
        self._squares = self._entries.square().sum(1)
        self._scratch = SCRATCH if entries.device.type == "cpu" else _GPU_SCRATCH
        self._supports = supports
        self._lists: InvertedLists | None = None
        if entries.device.type == "cpu" and len(entries) >= indexed_from:
            self._lists = (
                InvertedLists.build(self._entries.numpy())
                if centroids is None
                else InvertedLists(self._entries.numpy(), centroids.numpy())
            )

    @property
    def entries(self) -> Tensor:
        """(N, D)."""
        return self._entries

    @property
    def centroids(self) -> Tensor | None:
        """(L, D), from which the index can be rebuilt; None without an index."""
        return torch.from_numpy(self._lists.centroids) if self._lists else None

    @property
    def supports(self) -> Tensor | None:
        """(N, b), int32 row numbers of the entries around each entry; None before ``find_supports``."""
        return self._supports

    @property
    def bytes(self) -> int:
        """Memory of the entries, their squared lengths, the index and the supports."""
        held = [
            tensor.nbytes for tensor in (self._entries, self._squares, self._supports) if tensor is not None
        ]
        return sum(held) + (self._lists.bytes if self._lists else 0)

    @contextmanager
    def exact_search(self) -> Iterator[None]:
        """Compute all distances within the block; not thread-safe."""
        lists, self._lists = self._lists, None
        try:
            yield
        finally:
            self._lists = lists

    def find_supports(self, neighbors: int, on_entries: Callable[[int], None]) -> None:
        """Compute the ``neighbors`` entries nearest to each entry, itself included.

        Image scores depend on them, and computing those of one entry reads the whole bank. ``on_entries``
        is called with the number of entries done so far.
        """
        count = len(self._squares)
        block = max(1, 16 * self._scratch // count)
        found = []
        for start in range(0, count, block):
            on_entries(start)
            found.append(self._around(self.entries[start : start + block], neighbors).int())
        on_entries(count)
        self._supports = torch.cat(found)

    def nearest(
        self, patches: Tensor, grid: tuple[int, int] | None = None, expected: Tensor | None = None
    ) -> Nearest:
        """Return the nearest entries of the patches of one image.

        Images are searched one at a time, because products of another shape may round differently and the
        score of a frame must not depend on its batch.

        Args:
            patches: (P, D).
            grid: rows and columns of the patches.
            expected: (P,), positive; distances are divided by it.
        """
        if self._lists is None:
            distances, rows = self._exact(patches)
            if expected is not None:
                distances /= expected
            return Nearest(distances, rows, distances.argmax())
        units = np.ones(1, np.float32) if expected is None else expected.numpy()
        return self._find_farthest(
            patches, self._lists, *self._lists.search(patches.contiguous().numpy(), grid), units
        )

    def distances_to_others(self, patches: Tensor, excluded: Tensor) -> Tensor:
        """Return the distances (P,) of patches (P, D) to the nearest entry that is not ``excluded`` (N,).

        Computes all distances, so it is for training only. Infinite if all entries are excluded.
        """
        return self._exact(patches, excluded)[0]

    def image_score(self, patches: Tensor, nearest: Nearest, neighbors: int) -> Tensor:
        """Return the image score, (): the distance of the farthest patch, weighted as in equation 7."""
        farthest = int(nearest.farthest)
        score = nearest.distances[farthest]
        if neighbors == 1:
            return score
        row = int(nearest.rows[farthest])
        if self._supports is None:
            support = self._around(self.entries[row : row + 1], neighbors)[0]
        else:
            support = self._supports[row]
        to_support = self._entries.index_select(0, support) - patches[farthest]
        return score * (1 - functional.softmax(torch.linalg.vector_norm(to_support, dim=1), dim=0)[0])

    def _around(self, entries: Tensor, neighbors: int) -> Tensor:
        """Return row numbers (E, b) of the entries nearest to each of ``entries`` (E, D)."""
        squares = torch.addmm(self._squares, entries, self._entries.T, alpha=-2)  # less a constant per row
        return squares.topk(min(neighbors, len(self._squares)), largest=False).indices

    def _find_farthest(
        self,
        patches: Tensor,
        lists: InvertedLists,
        bounds: NDArray[np.float32],
        rows: NDArray[np.int64],
        units: NDArray[np.float32],
    ) -> Nearest:
        """Find the farthest of patches (P, D), given upper bounds (P,) and their entries (P,).

        The patches are compared by distance divided by ``units``, (P,) or (1,).
        """
        # NumPy has less overhead than torch for arrays this small.
        exact, arrays = np.zeros(len(patches), dtype=np.bool_), patches.contiguous().numpy()
        step = FIRST_CHECKED
        while True:
            open_bounds = np.where(exact, -np.inf, bounds / units)
            if step < len(exact):
                checked = open_bounds.argpartition(-step)[-step:]
            else:
                checked = np.flatnonzero(~exact)
            if step <= ONE_BY_ONE:
                for patch in checked:
                    bounds[patch], rows[patch] = lists.closest(arrays[patch], bounds[patch], rows[patch])
            else:
                bounds[checked], rows[checked] = (found.numpy() for found in self._exact(patches[checked]))
            exact[checked] = True
            far = bounds / units
            farthest = int(np.where(exact, far, -np.inf).argmax())
            if exact.all() or far[farthest] >= far[~exact].max():
                return Nearest(torch.from_numpy(far), torch.from_numpy(rows), torch.tensor(farthest))
            # Other patches are often nearest to the same entries. Without this, every patch of a flat or
            # saturated frame would need an exact search.
            found = rows[checked]
            to_found, which = torch.cdist(
                patches, self.entries[found], compute_mode="donot_use_mm_for_euclid_dist"
            ).min(1)
            closer = (to_found.numpy() < bounds) & ~exact
            bounds[closer] = to_found.numpy()[closer]
            rows[closer] = found[which.numpy()[closer]]
            step *= 2

    def _exact(self, patches: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distance and row number of the nearest entry of each of patches (P, D), by brute force.

        Entries that are ``excluded`` (N,) are ignored.
        """
        count, block = len(patches), max(256, self._scratch // len(patches))
        best = torch.full((count,), torch.inf, device=patches.device)
        rows = torch.zeros(count, dtype=torch.int64, device=patches.device)
        for start in range(0, len(self._squares), block):
            part = slice(start, start + block)
            # Squared distances, less the patch's own square, which does not change the order.
            squares = torch.addmm(self._squares[part], patches, self._entries[part].T, alpha=-2)
            if excluded is not None:
                squares[:, excluded[part]] = torch.inf
            # amin is several times faster than argmin, and most blocks improve few patches.
            lowest = squares.amin(1)
            better = (lowest < best).nonzero()[:, 0]
            best[better] = lowest[better]
            rows[better] = squares[better].argmin(1) + start
        # From differences, to stay exact where distances are small relative to the lengths.
        distances = torch.linalg.vector_norm(patches - self.entries[rows], dim=1)
        return distances if excluded is None else distances.where(best < torch.inf, torch.inf), rows
