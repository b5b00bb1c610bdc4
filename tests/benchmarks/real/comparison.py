# SPDX-License-Identifier: Apache-2.0
"""Means over sets with intervals, and paired differences between variants.

A mean gives each set the same weight. Its interval is a percentile bootstrap of two stages: sets are drawn
with replacement, and within each drawn set its draws. Source: Davison and Hinkley, Bootstrap Methods and
their Application, 1997, section 3.8. It therefore includes how sets, seeds and training images differ.
Paired differences compare trials of equal set and draw, so that what these have in common cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tests.benchmarks.real.trial import Trial

from blemish_core.evaluation.resampling import DRAWS, SEED, Estimate, percentile_interval

BySet = Mapping[str, Sequence[float]]
"""Values of the draws of each set."""


@dataclass(frozen=True)
class Difference:
    """A variant's mean difference from the baseline."""

    mean: Estimate
    better: int
    """Number of sets whose mean is higher than the baseline's."""
    sets: int


class VariantComparison:
    """The trials of several variants on the same sets."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = {(each.variant, each.set_name, each.draw): each for each in trials}
        self.variants = list(dict.fromkeys(each.variant for each in trials))
        self.sets = sorted({each.set_name for each in trials})

    def values(self, variant: str, figure: str) -> dict[str, list[float]]:
        """Return the figure of each draw by set, without sets that do not allow it."""
        found: dict[str, list[float]] = {}
        for (name, set_name, _), trial in sorted(self._trials.items()):
            value = trial.figures.get(figure)
            if name == variant and value is not None:
                found.setdefault(set_name, []).append(value)
        return found

    def mean(self, variant: str, figure: str) -> Estimate:
        """Return the mean over sets; without a value if no set has the figure."""
        return mean_over_sets(self.values(variant, figure))

    def of_set(self, variant: str, set_name: str, figure: str) -> float | None:
        """Return the mean over the draws of one set."""
        values = self.values(variant, figure).get(set_name)
        return float(np.mean(values)) if values else None

    def difference(self, variant: str, baseline: str, figure: str) -> Difference:
        """Compare two variants on the sets and draws that both have."""
        pairs: dict[str, list[float]] = {}
        for (name, set_name, draw), trial in sorted(self._trials.items()):
            other = self._trials.get((baseline, set_name, draw))
            if name != variant or other is None:
                continue
            value, reference = trial.figures.get(figure), other.figures.get(figure)
            if value is not None and reference is not None:
                pairs.setdefault(set_name, []).append(value - reference)
        better = sum(float(np.mean(each)) > 0 for each in pairs.values())
        return Difference(mean_over_sets(pairs), better, len(pairs))


def mean_over_sets(values: BySet) -> Estimate:
    """Estimate the mean over sets; without an interval if there is a single value."""
    kept = [np.asarray(each, np.float64) for each in values.values() if len(each)]
    if not kept:
        return Estimate(None)
    mean = float(np.mean([each.mean() for each in kept]))
    if len(kept) == 1 and len(kept[0]) == 1:
        return Estimate(mean)
    random = np.random.default_rng(SEED)
    drawn = np.empty(DRAWS)
    for number in range(DRAWS):
        chosen = [kept[each] for each in random.integers(len(kept), size=len(kept))]
        drawn[number] = np.mean(
            [each[random.integers(len(each), size=len(each))].mean() for each in chosen]
        )
    return Estimate(mean, percentile_interval(drawn))
