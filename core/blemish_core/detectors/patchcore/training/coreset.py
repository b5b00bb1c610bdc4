# SPDX-License-Identifier: Apache-2.0
"""Greedy k-center selection (Sener & Savarese, arXiv:1708.00489) without reading all points for each pick.

Farthest-first traversal picks, again and again, the point farthest from everything picked so far. The
textbook loop measures all N points against each pick. But distances to the picked set only ever shrink, so
an old one is an upper bound, and a point whose bound is low needs no attention. Bring the B points with the
highest bounds up to date: no other is farther than the (B+1)-th bound. While the farthest of these
candidates stays above it, it is the true next pick, and only the B x B distances between candidates are
needed to know the one after it.

Bounds are lowered by |x|^2 - 2 x.y + |y|^2 in float32, one matrix product for many points and picks: fast,
but wrong where points nearly coincide. So they are rounded upwards by all that they can err, and decide
nothing but who is a candidate. Candidates are measured in float64. Hence the picks are those of a loop that
subtracts point from point, as anomalib's ``KCenterGreedy`` does, but for candidates whose distances float32
cannot tell apart.

anomalib first projects features at random to 4 ln N / (eps^2/2 - eps^3/3) dimensions, eps = 0.9: some
hundreds, more than the default backbone's 152. That is left out: nothing is gained where dimensions are
added, and where 472 of three stages became 225, the covering radius grew by 6 to 9 %.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_CANDIDATES = 512
_ROWS_ON_CPU = 1024  # of the points in one product, by
_PICKS = 4096  # so many picks
_ROWS_ON_GPU = 16_384
_AWAKE = 16  # one in so many points, those with the highest bounds, is brought up to date with candidates
_NEVER = -1.0  # below every distance: what is picked is not picked again, even among duplicates
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
    """Return ``keep`` row numbers of ``points`` (N, D), in the order of picking, ``first`` first.

    No row is picked twice, even among duplicates, and none of those ``excluded`` (N,), bool.

    ``points`` may lie in a mapped file: they are read in blocks and computed with on ``device``, by default
    where they lie. Memory: 12 N bytes, at times some 50 N, the candidates and one block.

    ``on_picks`` hears the number of picks so far after each block and may raise to end the selection.

    Raises:
        ValueError: if there are not ``keep`` points, or one is not finite.
    """
    allowed = len(points) if excluded is None else len(points) - int(excluded.sum())
    if not 0 < keep <= allowed:
        raise ValueError(f"{keep} of {allowed} points cannot be kept")
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
            fresh = _certain(rows, farness, between, outside, keep - len(picks))
            bounds.exclude(fresh)
            picks += fresh
        on_picks(len(picks))
    return picks


def _certain(rows: Tensor, farness: Tensor, between: Tensor, outside: float, wanted: int) -> list[int]:
    """The next picks among candidates, as long as none but a candidate can be next.

    The squared distances are those of the candidates to the picks, (B,), and to one another, (B, B), and a
    bound on those of all others to the picks.
    """
    # A pick is a step of microseconds: a GPU would be waited for at each.
    numbers, far, apart = rows.tolist(), farness.cpu().numpy().copy(), between.cpu().numpy()
    fresh: list[int] = []
    while len(fresh) < wanted:
        best = int(far.argmax())
        if far[best] < outside:
            break
        fresh.append(numbers[best])
        np.minimum(far, apart[best], out=far)
        far[best] = _NEVER
    return fresh


class _Bounds:
    """What the squared distance of each point to the nearest pick is at most, fresh where it matters."""

    def __init__(self, space: "_Space", on_block: Callable[[], None]) -> None:
        self._space = space
        self._on_block = on_block
        self._values = torch.full((space.count,), torch.inf, device=space.device)
        self._seen = torch.zeros(space.count, dtype=torch.int32, device=space.device)  # picks

    def exclude(self, rows: Tensor | list[int]) -> None:
        """Keep rows, by number or by a mask, from being picked from now on."""
        self._values[rows.to(self._values.device) if isinstance(rows, Tensor) else rows] = _NEVER

    def tighten(self, rows: Tensor, exact: Tensor) -> Tensor:
        """Take exact distances (B,); return them with what must not be picked marked."""
        exact = torch.where(self._values[rows] == _NEVER, _NEVER, exact)
        self._values[rows] = exact
        return exact

    def highest(self, count: int, picks: list[int]) -> tuple[Tensor, float]:
        """The ``count`` rows with the highest bounds, ascending, and the highest bound of all others."""
        total = len(self._values)
        awake = min(total, max(count + 1, total // _AWAKE))
        while True:
            values, rows = self._values.topk(awake)
            stale = self._seen[rows] < len(picks)
            if not stale[: count + 1].any():
                break
            self._lower(rows[stale].sort().values, picks)
        outside = max(values[count].item(), 0.0) if count < total else 0.0
        return rows[:count].sort().values, outside

    def _lower(self, rows: Tensor, picks: list[int]) -> None:
        """Bring rows up to date with the picks that they have not seen."""
        # In the order of what they have seen: a block takes what the first of its rows has not.
        seen, order = self._seen[rows].sort(stable=True)
        blocks = torch.split(rows[order], self._space.rows)
        for block, before in zip(blocks, seen[:: self._space.rows].tolist(), strict=True):
            for start in range(before, len(picks), _PICKS):
                distances = self._space.bounds(block, picks[start : start + _PICKS])
                self._values[block] = torch.minimum(self._values[block], distances)
                self._on_block()
        self._seen[rows] = len(picks)


class _Space:
    """Squared distances between points, told about their mean, where rounding costs least."""

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
        # Written in place: many small results between large scratch keep the allocator from giving it back.
        self._squares = torch.empty(self.count, device=device)
        for block, squares in zip(
            torch.split(points, self.rows), torch.split(self._squares, self.rows), strict=True
        ):
            torch.sum(self._centered(block).square_(), 1, out=squares)
        # Rounded to 24 bits, x.y errs by D u |x| |y| at most in whatever order it is added up, and
        # 2 |x| |y| <= |x|^2 + |y|^2. The squares themselves err as much, centring and adding the rest.
        self._squares.mul_(1 + (points.shape[1] + 4) * _EPS)

    def bounds(self, rows: Tensor, picks: list[int]) -> Tensor:
        """What the distances (B,) of ``rows`` to the nearest of ``picks`` are at most."""
        to = torch.tensor(picks, device=self.device)
        x, y = self._centered(self._gather(rows)), self._centered(self._gather(to))
        nearest = torch.addmm(self._squares[to], x, y.T, alpha=-2).amin(1)  # (B, picks) to (B,)
        return nearest.add_(self._squares[rows])

    def exactly(self, rows: Tensor) -> Tensor:
        """Points (B, D) about the mean, in float64."""
        return self._gather(rows).double() - self._center

    def to_nearest(self, measured: Tensor, picks: list[int]) -> Tensor:
        """Distances (B,) from what ``exactly`` gave to the nearest of ``picks``, right to the last bit."""
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
    """Squared distances (X, Y) between points (X, D) and (Y, D) in float64."""
    distances = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)
