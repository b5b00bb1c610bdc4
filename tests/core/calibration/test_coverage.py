# SPDX-License-Identifier: Apache-2.0
"""Coverage over many seeds: good images are not rejected more often than the calibration guarantees.

Let a of n + 1 exchangeable images be allowed above the threshold. The rejects among m new images then have
the distribution BetaBinomial(m, a, n + 1 - a). It does not depend on the distribution of the scores, as
long as no two are equal; ties only reduce the rejects. Seeds are independent, so the bound on their sum is
exact. A correct calibration exceeds each bound with a probability of 1e-6.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom, binom
from torch import Tensor

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Image, TrainingContext, silent
from blemish_core.detectors.patchcore.network import FeatureExtractor
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import train

CHANCE = 1e-6
SEEDS = 200
TARGET = 0.05
FRESH = 100
"""New good images for each seed."""

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
Rng = np.random.Generator


def mixed(random: Rng, count: int) -> NDArray[np.float64]:
    """Return scores that are similar for most images and much higher for a few."""
    return np.where(random.random(count) < 0.07, random.normal(9, 3, count), random.normal(0, 1, count))


CONTINUOUS: dict[str, Draw] = {
    "normal": lambda random, count: random.normal(20, 2, count),
    "lognormal": lambda random, count: random.lognormal(0, 2, count),
    "Cauchy": lambda random, count: random.standard_cauchy(count),
    "mixed": mixed,
}
TIED: dict[str, Draw] = {
    "three values": lambda random, count: random.choice([1.0, 2.0, 3.0], count, p=[0.6, 0.33, 0.07]),
    "one value": lambda random, count: np.full(count, 4.0),
    "rounded": lambda random, count: random.normal(20, 2, count).round(),
    "mostly zero": lambda random, count: np.maximum(random.normal(-1.3, 1, count), 0),
}


def bounds(seeds: int, fresh: int, above: int, count: int) -> tuple[int, int]:
    """Return the total rejects below and above which the probability is CHANCE each."""
    one = betabinom.pmf(np.arange(fresh + 1), fresh, above, count + 1 - above)
    size = seeds * fresh + 1
    of_sum = np.fft.irfft(np.fft.rfft(one, size) ** seeds, size)
    cumulated = np.cumsum(of_sum)
    return int(np.searchsorted(cumulated, CHANCE)), int(np.searchsorted(cumulated, 1 - CHANCE))


@pytest.mark.parametrize("target", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("count", [19, 40, 100])
@pytest.mark.parametrize("name", [*CONTINUOUS, *TIED])
def test_false_rejects_stay_within_the_binomial_bound(name: str, count: int, target: float) -> None:
    draw = (CONTINUOUS | TIED)[name]
    warranted = max(target, 1 / (count + 1))
    above = floor(round(warranted * (count + 1), 9))
    rejected = covered = 0
    for seed in range(SEEDS):
        random = np.random.default_rng([seed, count])
        held_out = draw(random, count).tolist()
        calibration = Calibration.of(held_out, held_out, target)
        assert calibration.warranted_false_reject_rate == warranted
        rejects = int((draw(random, FRESH) > calibration.threshold).sum())
        rejected += rejects
        lower, upper = calibration.false_reject_rate_interval
        # Compare with the rejects of FRESH images at the ends of the interval.
        covered += binom.ppf(0.001, FRESH, lower) <= rejects <= binom.ppf(0.999, FRESH, upper)
    fewest, most = bounds(SEEDS, FRESH, above, count)
    reported = f"{rejected} of {SEEDS * FRESH} rejected, bound {fewest} to {most}, seeds 0 to {SEEDS - 1}"
    print(reported)
    assert rejected <= most, reported
    # At most 10.2 % may be missed.
    assert covered >= binom.ppf(CHANCE, SEEDS, 0.898), f"interval covers {covered} of {SEEDS}"
    if name in CONTINUOUS:
        assert rejected >= fewest, f"the threshold is needlessly high: {reported}"


@pytest.mark.parametrize("count", [19, 40])
@pytest.mark.parametrize("name", ["lognormal", "mixed", "three values", "rounded"])
def test_p_values_of_good_images_are_rarely_small(name: str, count: int) -> None:
    """The probability of a p-value up to j / (n + 1) is at most j / (n + 1)."""
    draw, seeds = (CONTINUOUS | TIED)[name], 2000
    p_values = np.empty(seeds)
    for seed in range(seeds):
        scores = draw(np.random.default_rng([seed, count, 1]), count + 1).tolist()
        p_values[seed] = Calibration.of(scores[1:], scores[1:], 0.05).p_value(scores[0])
    for rank in range(1, count + 2):
        level = rank / (count + 1)
        small = int((p_values <= level + 1e-12).sum())
        assert small <= binom.ppf(1 - CHANCE, seeds, level), (level, small, f"seeds 0 to {seeds - 1}")
        if name in CONTINUOUS:
            assert small >= binom.ppf(CHANCE, seeds, level), (level, small, f"seeds 0 to {seeds - 1}")


def test_fixed_threshold_guarantees_at_least_its_mean_reject_rate() -> None:
    """The mean of (k + 1) / (n + 1) is (n rate + 1) / (n + 1): no less than the rate."""
    count, seeds, rate = 40, 4000, 0.1
    random = np.random.default_rng(9)
    warranted = [
        Calibration.of(scores, scores, 0.05).at_threshold(1 - rate).warranted_false_reject_rate
        for scores in random.random((seeds, count)).tolist()
    ]
    expected = (count * rate + 1) / (count + 1)
    spread = np.sqrt(count * rate * (1 - rate)) / (count + 1) / np.sqrt(seeds)
    assert expected > rate
    assert np.mean(warranted) == pytest.approx(expected, abs=5 * spread)


def surface(seed: int) -> Image:
    """Return a good piece: stripes with noise of varying strength."""
    random = np.random.default_rng([seed, 17])
    wave = 120 + 60 * np.sin(np.arange(64) / 4 + random.uniform(0, 6))
    image = wave[None, :] + random.normal(0, random.uniform(2, 12), (64, 64))
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def quick_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the backbone only once for each image."""
    outputs: dict[bytes, Tensor] = {}
    compute = FeatureExtractor.forward

    def cached(network: FeatureExtractor, images: Tensor) -> Tensor:
        keys = [image.numpy().tobytes() for image in images]
        if any(key not in outputs for key in keys):
            outputs.update(zip(keys, compute(network, images), strict=True))
        return torch.stack([outputs[key] for key in keys])

    monkeypatch.setattr(FeatureExtractor, "forward", cached)
    # For inputs this small, synchronising threads costs more than it saves.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rejected_by_detectors(seeds: int, fresh: int, max_feature_bytes: int) -> tuple[int, str, int]:
    """Return the rejects among new images of all seeds, the method, and the least number of scored pieces.

    PatchCore trains on 75 pieces, another split for each seed.
    """
    settings = PatchCoreSettings(input_size=64, coreset_ratio=0.05)
    pieces = [surface(number) for number in range(75 + fresh)]
    rejected, method, scored = 0, "", len(pieces)
    for seed in range(seeds):
        order = np.random.default_rng([seed, 2]).permutation(len(pieces))
        context = TrainingContext(
            Path("nowhere"), seed, TARGET, silent, max_feature_bytes=max_feature_bytes
        )
        training = train(settings, [partial(pieces.__getitem__, i) for i in order[fresh:]], context)
        scores, method, detector = training.held_out_scores, training.method, training.detector
        scored = min(scored, len(scores.scores))
        calibration = Calibration.of(scores.scores, scores.map_maxima, TARGET)
        predictions = detector.predict([detector.prepare(pieces[i]) for i in order[:fresh]])
        rejected += sum(calibration.is_anomalous(prediction.score) for prediction in predictions)
    return rejected, method, scored


@pytest.mark.usefixtures("quick_network")
def test_detector_rejects_unseen_good_images_within_the_bound() -> None:
    seeds, fresh = 25, 30
    rejected, method, scored = rejected_by_detectors(seeds, fresh, max_feature_bytes=1)
    assert (method, scored) == ("held out", 19)
    fewest, most = bounds(seeds, fresh, 1, 19)
    reported = f"{rejected} of {seeds * fresh} rejected, bound {fewest} to {most}, seeds 0 to {seeds - 1}"
    print(reported)
    assert fewest <= rejected <= most, reported


@pytest.mark.usefixtures("quick_network")
def test_cross_calibrated_detector_rejects_no_more_unseen_good_images_than_the_bound() -> None:
    seeds, fresh = 12, 30
    rejected, method, scored = rejected_by_detectors(seeds, fresh, max_feature_bytes=1 << 30)
    assert method == "cross-calibration"
    assert scored > 59  # three may lie above the threshold; some stripes look like copies
    _, most = bounds(seeds, fresh, 3, scored)
    reported = f"{rejected} of {seeds * fresh} rejected, at most {most}, seeds 0 to {seeds - 1}"
    print(reported)
    assert rejected <= most, reported
