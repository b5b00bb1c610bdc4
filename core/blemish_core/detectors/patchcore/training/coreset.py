# SPDX-License-Identifier: Apache-2.0
"""Greedy k-center selection (Sener & Savarese, arXiv:1708.00489) that reads few points per pick.

Farthest-first traversal repeatedly picks the point that is farthest from all earlier picks. The textbook
loop computes the distances of all N points to each pick. But distances to the picked set only shrink, so an
old distance is an upper bound, and points with low bounds can be skipped. The B points with the highest
bounds are the candidates. Their bounds are updated, and no other point is farther than the (B+1)-th bound.
While the farthest candidate exceeds that bound, it is the true next pick. Only the B x B distances between
candidates are needed to find the pick after it.

Bounds are updated by |x|^2 - 2 x.y + |y|^2 in float32, one matrix product for many points and picks. This
is fast but inexact for points that nearly coincide. So the bounds are rounded up by their maximum error,
and only select the candidates, whose distances are computed in float64. The picks equal those of a loop
that subtracts the points, such as anomalib's ``KCenterGreedy``. Exceptions are candidates whose distances
are equal in float32.

anomalib first projects features at random to 4 ln N / (eps^2/2 - eps^3/3) dimensions, eps = 0.9. The
projection is omitted here: it adds dimensions to small features and loses accuracy on large ones.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_CANDIDATES = 512
_ROWS_ON_CPU = 1024  # points in one product
_ROWS_ON_GPU = 16_384
_PICKS = 4096  # picks in one product
_ACTIVE = 16  # one in this many points, those with the highest bounds, is updated with the candidates
_EXCLUDED = -1.0  # below every distance, so that a point is not picked again, even among duplicates
_EPS = torch.finfo(torch.float32).eps


def greedy_coreset(
    points: Tensor,
    keep: int,
    first: int,
    *,
    excluded: Tensor | None = None,
    device: str | torch.device | None = None,
    candidates: int = _CANDIDATES,
    on_picks: Callable[[int], None] = lambda picked: None,
) -> list[int]:
    """Return ``keep`` row numbers of points in the order of picking. No row is picked twice.

    Memory: 12 N bytes, up to 50 N for short times, the candidates and one block.

    Args:
        points: (N, D), possibly in a mapped file; they are read in blocks.
        keep: number of picks.
        first: row number of the first pick.
        excluded: (N,), bool, rows that must not be picked.
        device: device of the computation, by default that of the points.
        candidates: number of candidates at a time.
        on_picks: called with the number of picks after each block; it may raise to end the selection.

    Raises:
        ValueError: if there are fewer than ``keep`` points, or one is not finite.
    """
    allowed = len(points) if excluded is None else len(points) - int(excluded.sum())
    if not 0 < keep <= allowed:
        raise ValueError(f"cannot pick {keep} of {allowed} points")
    space = _Space(points, points.device if device is None else torch.device(device))
    bounds = _Bounds(space, lambda: on_picks(len(picks)))
    if excluded is not None:
        bounds.exclude(excluded)
    picks = [first]
    bounds.exclude([first])
    while len(picks) < keep:
        rows, outside = bounds.highest(candidates, picks)
        measured = space.exactly(rows)  # (B, D)
        farness = bounds.tighten(rows, space.to_nearest(measured, picks))
        if farness.max() >= outside:
            between = _squared_distances(measured, measured).float()
            new = _certain(rows, farness, between, outside, keep - len(picks))
            bounds.exclude(new)
            picks += new
        on_picks(len(picks))
    return picks


def _certain(rows: Tensor, farness: Tensor, between: Tensor, outside: float, wanted: int) -> list[int]:
    """Return the next picks among candidates, as long as no other point can be next.

    Args:
        rows: (B,), row numbers of the candidates.
        farness: (B,), squared distances of the candidates to the picks.
        between: (B, B), squared distances between the candidates.
        outside: bound on the squared distances of all other points to the picks.
        wanted: most picks to return.
    """
    # On the CPU: a step takes microseconds, less than synchronising with a GPU.
    numbers, far, apart = rows.tolist(), farness.cpu().numpy().copy(), between.cpu().numpy()
    new: list[int] = []
    while len(new) < wanted:
        best = int(far.argmax())
        if far[best] < outside:
            break
        new.append(numbers[best])
        np.minimum(far, apart[best], out=far)
        far[best] = _EXCLUDED
    return new


class _Bounds:
    """Upper bounds on the squared distance of each point to the nearest pick, updated on demand."""

    def __init__(self, space: "_Space", on_block: Callable[[], None]) -> None:
        self._space = space
        self._on_block = on_block
        self._values = torch.full((space.count,), torch.inf, device=space.device)
        # Number of picks that each bound takes into account.
        self._seen = torch.zeros(space.count, dtype=torch.int32, device=space.device)

    def exclude(self, rows: Tensor | list[int]) -> None:
        """Exclude rows, given by number or by a mask, from later picks."""
        self._values[rows.to(self._values.device) if isinstance(rows, Tensor) else rows] = _EXCLUDED

    def tighten(self, rows: Tensor, exact: Tensor) -> Tensor:
        """Set exact distances (B,) as bounds; return them with excluded rows marked."""
        exact = torch.where(self._values[rows] == _EXCLUDED, _EXCLUDED, exact)
        self._values[rows] = exact
        return exact

    def highest(self, count: int, picks: list[int]) -> tuple[Tensor, float]:
        """Return the ``count`` rows with the highest bounds, ascending, and the highest other bound."""
        total = len(self._values)
        active = min(total, max(count + 1, total // _ACTIVE))
        while True:
            values, rows = self._values.topk(active)
            stale = self._seen[rows] < len(picks)
            if not stale[: count + 1].any():
                break
            self._lower(rows[stale].sort().values, picks)
        outside = max(values[count].item(), 0.0) if count < total else 0.0
        return rows[:count].sort().values, outside

    def _lower(self, rows: Tensor, picks: list[int]) -> None:
        """Update the bounds of rows by the picks made since."""
        # Sorted by picks seen, because a block starts at the first pick that any of its rows has not seen.
        seen, order = self._seen[rows].sort(stable=True)
        blocks = torch.split(rows[order], self._space.rows)
        for block, before in zip(blocks, seen[:: self._space.rows].tolist(), strict=True):
            for start in range(before, len(picks), _PICKS):
                distances = self._space.bounds(block, picks[start : start + _PICKS])
                self._values[block] = torch.minimum(self._values[block], distances)
                self._on_block()
        self._seen[rows] = len(picks)


class _Space:
    """Squared distances between points, centred to reduce rounding errors."""

    def __init__(self, points: Tensor, device: torch.device) -> None:
        self.device = device
        self.count = len(points)
        self.rows = _ROWS_ON_CPU if device.type == "cpu" else _ROWS_ON_GPU
        self._points = points
        self._center = torch.zeros(points.shape[1], dtype=torch.float64, device=device)
        for block in torch.split(points, self.rows):
            self._center += block.to(device).sum(0, dtype=torch.float64) / self.count
        if not self._center.isfinite().all():
            raise ValueError("a point is not finite")
        # Written in place: many small tensors between large ones would fragment the heap.
        self._squares = torch.empty(self.count, device=device)
        for block, squares in zip(
            torch.split(points, self.rows), torch.split(self._squares, self.rows), strict=True
        ):
            torch.sum(self._centered(block).square_(), 1, out=squares)
        # In float32 the error of x.y is at most D u |x| |y| in any order of summation, and
        # 2 |x| |y| <= |x|^2 + |y|^2. The rest covers the errors of the squares and of centring.
        self._squares.mul_(1 + (points.shape[1] + 4) * _EPS)

    def bounds(self, rows: Tensor, picks: list[int]) -> Tensor:
        """Return upper bounds on the distances (B,) of ``rows`` to the nearest of ``picks``."""
        to = torch.tensor(picks, device=self.device)
        x, y = self._centered(self._gather(rows)), self._centered(self._gather(to))
        nearest = torch.addmm(self._squares[to], x, y.T, alpha=-2).amin(1)  # (B, picks) to (B,)
        return nearest.add_(self._squares[rows])

    def exactly(self, rows: Tensor) -> Tensor:
        """Return centred points (B, D) in float64."""
        return self._gather(rows).double() - self._center

    def to_nearest(self, measured: Tensor, picks: list[int]) -> Tensor:
        """Return exact distances (B,) from a result of ``exactly`` to the nearest of ``picks``."""
        nearest = measured.new_full((len(measured),), torch.inf)
        for numbers in torch.split(torch.tensor(picks, device=self.device), _PICKS):
            distances = _squared_distances(measured, self.exactly(numbers)).amin(1)
            torch.minimum(nearest, distances, out=nearest)
        return nearest.float()

    def _gather(self, rows: Tensor) -> Tensor:
        return self._points.index_select(0, rows.to(self._points.device)).to(self.device)

    def _centered(self, points: Tensor) -> Tensor:
        return points.to(self.device) - self._center.float()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances (X, Y) between points (X, D) and (Y, D) in float64."""
    distances = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)
