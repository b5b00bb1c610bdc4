# SPDX-License-Identifier: Apache-2.0
"""Greedy k-center selection (Sener & Savarese, arXiv:1708.00489), many picks per pass over the data.

Farthest-first traversal picks, again and again, the point farthest from everything picked so far. The
textbook loop reads all N points once per pick. But distances to the picked set only ever shrink, so an old
one is an upper bound. Measure the B points with the highest bounds: none of the others is farther than the
(B+1)-th bound. While the farthest of these candidates stays above it, it is the true next pick, and only
the B x B distances between candidates are needed to know the one after it. One matrix product then lowers
the bounds of all N points.

That product, |x|^2 - 2 x.y + |y|^2 in float32, is fast but wrong where points nearly coincide. So it is
rounded upwards by all that it can err, and decides nothing but who is a candidate. Candidates are measured
in float64. Hence the picks are those of a loop that subtracts point from point, as anomalib's
``KCenterGreedy`` does, but for candidates whose distances float32 cannot tell apart.

anomalib first projects features at random to 4 ln N / (eps^2/2 - eps^3/3) dimensions, eps = 0.9: some
hundreds, more than the default backbone's 152. That is left out: nothing is gained where dimensions are
added, and where 472 of three stages became 225, the covering radius grew by 6 to 9 %.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

_CANDIDATES = 2048
_PICKS = 4096  # measured against at once, in float64
_ROWS_ON_CPU = 8192  # of the points brought up to date at once
_ROWS_ELSEWHERE = 65_536
_NEVER = -1.0  # below every distance: what is picked is not picked again, even among duplicates
_EPS = torch.finfo(torch.float32).eps


def greedy_coreset(
    points: Tensor,
    keep: int,
    first: int,
    *,
    barred: Tensor | None = None,
    device: str | torch.device | None = None,
    candidates: int = _CANDIDATES,
    on_picks: Callable[[int], None] = lambda picked: None,
) -> list[int]:
    """Return ``keep`` row numbers of ``points`` (N, D), in the order of picking, ``first`` first.

    No row is picked twice, even among duplicates, and none of those ``barred`` (N,), bool.

    ``points`` may lie in a mapped file: each pass reads them in blocks and computes on ``device``, by
    default where they lie. Memory: 8 N bytes, the candidates and one block.

    ``on_picks`` hears the number of picks so far after each block and may raise to end the selection.

    Raises:
        ValueError: if there are not ``keep`` points, or one is not finite.
    """
    allowed = len(points) if barred is None else len(points) - int(barred.sum())
    if not 0 < keep <= allowed:
        raise ValueError(f"{keep} of {allowed} points cannot be kept")
    space = _Space(points, points.device if device is None else torch.device(device))
    bounds = torch.full((len(points),), torch.inf, device=space.device)  # (N,), squared
    if barred is not None:
        bounds[barred.to(space.device)] = _NEVER
    picks: list[int] = []
    fresh = [first]
    while True:
        picks += fresh
        if len(picks) == keep:
            on_picks(keep)
            return picks
        for block, distances in space.bounds(fresh):
            torch.minimum(bounds[block], distances, out=bounds[block])
            on_picks(len(picks))
        bounds[fresh] = _NEVER
        fresh = []
        while not fresh:
            rows, outside = _highest(bounds, candidates)
            measured = space.exactly(rows)  # (B, D)
            farness = space.to_nearest(measured, picks)
            farness[bounds[rows] == _NEVER] = _NEVER
            bounds[rows] = farness
            if farness.max() >= outside:
                between = _squared_distances(measured, measured).float()
                fresh = _certain(rows, farness, between, outside, keep - len(picks))
            on_picks(len(picks))


def _highest(bounds: Tensor, count: int) -> tuple[Tensor, float]:
    """The rows (B,) of the highest bounds, ascending, and the highest bound of all others."""
    if count >= len(bounds):
        return torch.arange(len(bounds), device=bounds.device), 0.0
    values, rows = bounds.topk(count + 1)
    return rows[:-1].sort().values, max(values[-1].item(), 0.0)


def _certain(rows: Tensor, farness: Tensor, between: Tensor, outside: float, wanted: int) -> list[int]:
    """The next picks among candidates, as long as none but a candidate can be next.

    The squared distances are those of the candidates to the picks, (B,), and to one another, (B, B), and a
    bound on those of all others to the picks.
    """
    # A pick is a step of microseconds: a GPU would be waited for at each.
    numbers, far, apart = rows.tolist(), farness.cpu().numpy(), between.cpu().numpy()
    fresh: list[int] = []
    while len(fresh) < wanted:
        best = int(far.argmax())
        if far[best] < outside:
            break
        fresh.append(numbers[best])
        np.minimum(far, apart[best], out=far)
        far[best] = _NEVER
    return fresh


class _Space:
    """Squared distances between points, told about their mean, where rounding costs least."""

    def __init__(self, points: Tensor, device: torch.device) -> None:
        self.device = device
        self._points = points
        rows = _ROWS_ON_CPU if device.type == "cpu" else _ROWS_ELSEWHERE
        self._blocks = [slice(start, start + rows) for start in range(0, len(points), rows)]
        self._center = torch.zeros(points.shape[1], dtype=torch.float64, device=device)
        for block in self._blocks:
            self._center += points[block].to(device).sum(0, dtype=torch.float64) / len(points)
        if not self._center.isfinite().all():
            raise ValueError("a point is not finite")
        squares = [self._centered(block).square().sum(1) for block in self._blocks]
        # Rounded to 24 bits, x.y errs by D u |x| |y| at most in whatever order it is added up, and
        # 2 |x| |y| <= |x|^2 + |y|^2. The squares themselves err as much, centring and adding the rest.
        self._squares = torch.cat(squares).mul_(1 + (points.shape[1] + 4) * _EPS)

    def bounds(self, picks: list[int]) -> Iterator[tuple[slice, Tensor]]:
        """Block by block, what the distances (rows,) to the nearest of ``picks`` are at most."""
        to = self._centered(picks)
        squares = self._squares[picks]
        for block in self._blocks:
            distances = torch.addmm(squares, self._centered(block), to.T, alpha=-2)  # (rows, picks)
            yield block, distances.amin(1).add_(self._squares[block])

    def exactly(self, rows: Tensor | list[int]) -> Tensor:
        """Points (B, D) about the mean, in float64."""
        if isinstance(rows, Tensor):
            rows = rows.to(self._points.device)
        return self._points[rows].to(self.device, torch.float64) - self._center

    def to_nearest(self, measured: Tensor, picks: list[int]) -> Tensor:
        """Distances (B,) from what ``exactly`` gave to the nearest of ``picks``, right to the last bit."""
        nearest = measured.new_full((len(measured),), torch.inf)
        for start in range(0, len(picks), _PICKS):
            to = self.exactly(picks[start : start + _PICKS])
            torch.minimum(nearest, _squared_distances(measured, to).amin(1), out=nearest)
        return nearest.float()

    def _centered(self, rows: slice | list[int]) -> Tensor:
        return self._points[rows].to(self.device) - self._center.float()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (X, Y) between points (X, D) and (Y, D) in float64."""
    distances = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)
