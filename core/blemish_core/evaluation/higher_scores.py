# SPDX-License-Identifier: Apache-2.0
"""Test whether scores of good images are higher than those of the held-out ones."""

from collections.abc import Sequence

from blemish_core.calibration import Calibration
from blemish_core.distributions import beta_binomial_tail, rank_test

SIGNIFICANCE = 0.005
"""Level of each of the two tests, so that at most 1 % of evaluations warn without a reason."""


def is_higher(calibration: Calibration, scores: Sequence[float]) -> bool:
    """Return True if ``scores`` of good images are higher than held-out ones beyond chance.

    One test compares all scores (Mann and Whitney, Annals of Mathematical Statistics 18, 1947). The other
    counts those above the threshold. If all images are exchangeable, the count has a beta-binomial
    distribution, because the rate of the threshold has a beta distribution; see ``calibration``.
    """
    if not scores:
        return False
    if rank_test(scores, calibration.scores) < SIGNIFICANCE:
        return True
    allowed, count = calibration.held_out_above + 1, len(calibration.scores)
    rejected = sum(map(calibration.is_anomalous, scores))
    if allowed > count or not rejected:
        return False
    return beta_binomial_tail(rejected, len(scores), allowed, count + 1 - allowed) < SIGNIFICANCE
