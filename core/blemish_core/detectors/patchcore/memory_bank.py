# SPDX-License-Identifier: Apache-2.0
"""A memory bank: how far patches lie from what is normal, and how dense it is there (arXiv:2106.08265).

A frame of 1,024 patches against 28,000 entries is 29 million distances, most of a frame's time if all are
computed. Inverted lists leave some 3 % of them. What they find is some entry, hence an upper bound on the
distance to the nearest one, and the image score needs the exact distance of the farthest patch alone: so
the patches with the highest bounds look through the whole bank until one of them is at least as far
as the bounds of all others. It is then the farthest, as surely as if every distance had been computed.
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

INDEXED_FROM = 2048
"""Entries from which there is an index. Below, all distances take one core 12 ms at most."""
# Patches; mostly the bound of one is its distance. Doubled for as long as the farthest is not known.
_FIRST_CHECKED = 1
# Up to so many at once, each patch looks for its nearest entry by itself: the product of more is faster.
_ONE_BY_ONE = 4
# Distances held at once: 4 MiB stay within a core's reach, a GPU wants larger products.
_SCRATCH = 1 << 20
_GPU_SCRATCH = 1 << 26


@dataclass(frozen=True)
class Nearest:
    """The bank seen from the P patches of one image."""

    distances: Tensor
    """(P,), to the nearest entry, of what is usual if that was given.

    Exact for the farthest patch, never too small for any.
    """
    rows: Tensor
    """(P,), row numbers of these entries."""
    farthest: Tensor
    """(), the patch whose distance is the greatest."""


class MemoryBank:
    """Entries (N, D) of normal patches, on any device; on a CPU and from ``INDEXED_FROM`` on with an index.

    Memory: the entries and their squared lengths, with an index about a third more (``bytes``), and while
    searching no more than 4 MiB of distances (256 MiB on a GPU). Threads may search at once.
    """

    def __init__(
        self, entries: Tensor, centroids: Tensor | None = None, supports: Tensor | None = None
    ) -> None:
        """Take ``centroids`` as the index's lists; without them they are found where they pay.

        ``supports`` (N, b) is what ``find_supports`` found in the same entries.
        """
        self._entries = entries.contiguous()
        self._squares = self._entries.square().sum(1)
        self._scratch = _SCRATCH if entries.device.type == "cpu" else _GPU_SCRATCH
        self._supports = supports
        self._lists: InvertedLists | None = None
        if entries.device.type == "cpu" and len(entries) >= INDEXED_FROM:
            self._lists = (
                InvertedLists.build(self._entries)
                if centroids is None
                else InvertedLists(self._entries, centroids)
            )

    @property
    def entries(self) -> Tensor:
        """(N, D)."""
        return self._entries

    @property
    def centroids(self) -> Tensor | None:
        """(L, D), what the index is rebuilt from; None without one."""
        return self._lists.centroids if self._lists else None

    @property
    def supports(self) -> Tensor | None:
        """(N, b), row numbers of the entries around each entry, int32; None if they were not looked for."""
        return self._supports

    @property
    def bytes(self) -> int:
        """Memory held: the entries, their squared lengths, the index, the supports."""
        held = [
            tensor.nbytes for tensor in (self._entries, self._squares, self._supports) if tensor is not None
        ]
        return sum(held) + (self._lists.bytes if self._lists else 0)

    @contextmanager
    def exact_search(self) -> Iterator[None]:
        """For a while compute all distances, index or not."""
        lists, self._lists = self._lists, None
        try:
            yield
        finally:
            self._lists = lists

    def find_supports(self, neighbors: int, on_entries: Callable[[int], None]) -> None:
        """Look up the ``neighbors`` entries nearest to each entry, itself among them, once and for all.

        Every image score weighs by them, and finding those of one entry reads the whole bank: a tenth of a
        frame. ``on_entries`` hears how many are done.
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
        self, patches: Tensor, grid: tuple[int, int] | None = None, usual: Tensor | None = None
    ) -> Nearest:
        """Look at the bank from patches (P, D) of one image, in rows and columns of ``grid`` if given.

        ``usual`` (P,), above 0, is what each patch's distance is divided by.

        One image at a time: products of another shape may round otherwise, and a frame's score must not
        depend on the batch that it was in.
        """
        if self._lists is None:
            distances, rows = self._exact(patches)
            if usual is not None:
                distances /= usual
            return Nearest(distances, rows, distances.argmax())
        units = np.ones(1, np.float32) if usual is None else usual.numpy()
        return self._settled(patches, self._lists, *self._lists.search(patches, grid), units)

    def distances_to_others(self, patches: Tensor, excluded: Tensor) -> Tensor:
        """Return the distance (P,) of patches (P, D) to the nearest entry that is not ``excluded`` (N,).

        All distances are computed: for training. Infinite where all entries are excluded.
        """
        return self._exact(patches, excluded)[0]

    def image_score(self, patches: Tensor, nearest: Nearest, neighbors: int) -> Tensor:
        """Weigh the distance of the farthest patch by how dense the bank is there: equation 7, ()."""
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
        """Row numbers (E, b) of the entries nearest to each of ``entries`` (E, D)."""
        squares = torch.addmm(
            self._squares, entries, self._entries.T, alpha=-2
        )  # less a constant of each row
        return squares.topk(min(neighbors, len(self._squares)), largest=False).indices

    def _settled(
        self,
        patches: Tensor,
        lists: InvertedLists,
        bounds: NDArray[np.float32],
        rows: NDArray[np.int64],
        units: NDArray[np.float32],
    ) -> Nearest:
        """Find the farthest of patches (P, D), given upper bounds (P,) and the entries they come from.

        Bounds and distances are lengths; how far is measured in ``units`` (P,), or (1,) for all.
        """
        # In numpy: steps as small as these take torch three times as long.
        exact = np.zeros(len(patches), dtype=np.bool_)
        step = _FIRST_CHECKED
        while True:
            open_bounds = np.where(exact, -np.inf, bounds / units)
            now = open_bounds.argpartition(-step)[-step:] if step < len(exact) else np.flatnonzero(~exact)
            if step <= _ONE_BY_ONE:
                for patch in now:
                    bounds[patch], rows[patch] = lists.closest(patches[patch], bounds[patch], rows[patch])
            else:
                bounds[now], rows[now] = (found.numpy() for found in self._exact(patches[now]))
            exact[now] = True
            far = bounds / units
            farthest = int(np.where(exact, far, -np.inf).argmax())
            if exact.all() or far[farthest] >= far[~exact].max():
                return Nearest(torch.from_numpy(far), torch.from_numpy(rows), torch.tensor(farthest))
            # Patches like these are often nearest to the same entries: a flat or saturated frame would
            # otherwise be checked patch by patch.
            found = rows[now]
            to_found, which = torch.cdist(
                patches, self.entries[found], compute_mode="donot_use_mm_for_euclid_dist"
            ).min(1)
            closer = (to_found.numpy() < bounds) & ~exact
            bounds[closer] = to_found.numpy()[closer]
            rows[closer] = found[which.numpy()[closer]]
            step *= 2

    def _exact(self, patches: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distance to the nearest entry and its row number for each of patches (P, D), by all distances.

        Entries that are ``excluded`` (N,) do not count.
        """
        count, block = len(patches), max(256, self._scratch // len(patches))
        best = torch.full((count,), torch.inf, device=patches.device)
        rows = torch.zeros(count, dtype=torch.int64, device=patches.device)
        for start in range(0, len(self._squares), block):
            part = slice(start, start + block)
            # Squared, less the patch's own square: that changes no order.
            squares = torch.addmm(self._squares[part], patches, self._entries[part].T, alpha=-2)
            if excluded is not None:
                squares[:, excluded[part]] = torch.inf
            # The minimum alone is several times faster than with its place, and most blocks better few.
            lowest = squares.amin(1)
            better = (lowest < best).nonzero()[:, 0]
            best[better] = lowest[better]
            rows[better] = squares[better].argmin(1) + start
        # Of differences: exact also where small beside the lengths.
        distances = torch.linalg.vector_norm(patches - self.entries[rows], dim=1)
        return distances if excluded is None else distances.where(best < torch.inf, torch.inf), rows
