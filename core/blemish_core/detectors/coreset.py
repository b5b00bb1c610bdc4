# SPDX-License-Identifier: Apache-2.0
"""Greedy k-center selection (Sener & Savarese, arXiv:1708.00489), many picks per pass over the data.

Farthest-first traversal picks, again and again, the point farthest from everything picked so far. The
textbook loop reads all N points once per pick. Distances to the picked set only ever shrink, so the
(B+1)-th largest stale distance bounds every point outside the B farthest candidates: while the best
candidate's exact distance stays above that bound it is the true next pick, and only the B x B distances
between candidates are needed. One matrix product then brings all N distances up to date.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_ROWS = 65_536  # of the points updated at once: bounds the scratch memory


def greedy_coreset(
    points: Tensor,
    keep: int,
    first: int,
    *,
    candidates: int = 2048,
    on_picks: Callable[[int], None] = lambda picked: None,
) -> list[int]:
    """Return ``keep`` row numbers of ``points`` (N, D), in the order of picking, ``first`` first.

    ``on_picks`` hears the number of picks after each pass and may raise to end the selection.
    """
    count = len(points)
    squares = (points * points).sum(1)
    nearest = _squared_distances(points, squares, points[[first]], squares[[first]])  # (N,)
    nearest[first] = -1  # picked: never again, not even among duplicates
    picks = [first]
    while len(picks) < keep:
        farthest, rows = nearest.topk(min(candidates + 1, count))
        if len(rows) == count:
            bound = -1.0  # every point is a candidate
        else:
            bound, rows, farthest = farthest[-1].item(), rows[:-1], farthest[:-1]
        between = torch.cdist(points[rows], points[rows]).square_()  # (B, B)
        fresh: list[int] = []
        while len(picks) + len(fresh) < keep:
            best, candidate = farthest.max(0)
            # Below the bound some point outside the candidates may be farther.
            if fresh and best.item() < bound:
                break
            fresh.append(int(rows[candidate]))
            farthest = torch.minimum(farthest, between[candidate])
            farthest[candidate] = -1
        for start in range(0, count, _ROWS):
            block = slice(start, start + _ROWS)
            nearest[block] = torch.minimum(
                nearest[block],
                _squared_distances(points[block], squares[block], points[fresh], squares[fresh]),
            )
        nearest[fresh] = -1
        picks += fresh
        on_picks(len(picks))
    return picks


def _squared_distances(points: Tensor, squares: Tensor, to: Tensor, to_squares: Tensor) -> Tensor:
    """Squared distance of each point to the nearest row of ``to``, (N,)."""
    return (squares[:, None] - 2 * points @ to.T + to_squares).amin(1).clamp_min_(0)
