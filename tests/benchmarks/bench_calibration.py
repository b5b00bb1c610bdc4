# SPDX-License-Identifier: Apache-2.0
"""Compare PatchCore's false reject rate on unseen images with the rate that its calibration warrants.

    python -m tests.benchmarks.bench_calibration [--categories tile] [--seeds 20]

Images are drawn by blemish. Each seed trains on other images of one pool and scores good images that the
training left out. A calibration that is exactly right exceeds the bounds of a row with probability 1e-3.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import floor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom
from tests.benchmarks.report import Report, parser, section
from torch import Tensor

from blemish_client.demo.surfaces.specimen import CATEGORIES, Origin, draw
from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Image, TrainingContext, TrainingResult, silent
from blemish_core.detectors.patchcore.network import FeatureExtractor
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import train

CHANCE = 1e-3
CACHED = 1000
CROSSED = ((4, 0.05), (8, 0.05), (12, 0.05), (19, 0.05), (19, 0.2), (57, 0.05), (57, 0.2), (147, 0.02))
"""Training images and target rate of cross-calibrations."""
HELD_OUT = ((57, 0.05), (57, 0.2), (147, 0.02))
"""The same with some images held out."""
_NO_CROSS_CALIBRATION = 1
"""Memory limit that no features fit in, bytes."""
_DEFAULT_BYTES = 4 << 30


def main() -> None:
    """Write one row for each case."""
    options = parser(__doc__)
    options.add_argument("--categories", nargs="*", default=CATEGORIES)
    options.add_argument("--pool", type=int, default=220, help="good images of each category")
    options.add_argument("--fresh", type=int, default=60, help="unseen good images for each seed")
    options.add_argument("--seeds", type=int, default=20, help="trainings for each row")
    options.add_argument("--size", type=int, default=128, help="sides of the images and the input, px")
    arguments = options.parse_args()
    torch.set_num_threads(1)  # inputs are small, and rounding does not depend on the machine's load
    settings = PatchCoreSettings(input_size=arguments.size, coreset_ratio=0.02)
    with section("bench_calibration", "False reject rates", arguments) as report:
        report.write(
            f"PatchCore, {arguments.size} px, seeds 0 to {arguments.seeds - 1}, {arguments.fresh} unseen "
            "good images each.\n"
        )
        report.write(
            "| category | images | method | held-out scores | target | warranted | measured | bounds "
            "| single trainings | 90 % interval covers |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for category in arguments.categories:
            pool = [
                draw(Origin(category, "train", "good", index, 0, arguments.size)).image
                for index in range(arguments.pool)
            ]
            with _cached_features():
                for cases, most_bytes in ((CROSSED, _DEFAULT_BYTES), (HELD_OUT, _NO_CROSS_CALIBRATION)):
                    for images, target in cases:
                        _row(
                            category,
                            pool,
                            images,
                            target,
                            most_bytes,
                            settings,
                            arguments.seeds,
                            arguments.fresh,
                            report,
                        )


def _row(
    category: str,
    pool: list[Image],
    images: int,
    target: float,
    most_bytes: int,
    settings: PatchCoreSettings,
    seeds: int,
    fresh: int,
    report: Report,
) -> None:
    shares, covered, method, calibration = [], 0, "", None
    for seed in range(seeds):
        order = np.random.default_rng([seed, images]).permutation(len(pool))[: images + fresh]
        training, calibration = _trained(pool, order[fresh:], seed, target, most_bytes, settings)
        detector, method = training.detector, training.method
        scores = [
            prediction.score
            for start in range(0, fresh, 8)
            for prediction in detector.predict(
                [detector.prepare(pool[i]) for i in order[start : min(start + 8, fresh)]]
            )
        ]
        shares.append(float(np.mean([calibration.is_anomalous(score) for score in scores])))
        lower, upper = calibration.false_reject_rate_interval
        # The share of these images differs slightly from the true rate.
        covered += lower <= shares[-1] <= upper
    assert calibration is not None
    count, warranted = len(calibration.scores), calibration.warranted_false_reject_rate
    above = floor(round(warranted * (count + 1), 9))
    fewest, most = _bounds(seeds, fresh, above, count)
    report.write(
        f"| {category} | {images} | {method} | {count} | {target:.0%} | {warranted:.1%} "
        f"| {np.mean(shares):.1%} | {fewest:.1%} to {most:.1%} "
        f"| {min(shares):.1%} to {max(shares):.1%} | {covered} of {seeds} |"
    )


def _trained(
    pool: list[Image],
    chosen: NDArray[np.int64],
    seed: int,
    target: float,
    most_bytes: int,
    settings: PatchCoreSettings,
) -> tuple[TrainingResult, Calibration]:
    context = TrainingContext(Path("nowhere"), seed, target, silent, max_feature_bytes=most_bytes)
    training = train(settings, [partial(pool.__getitem__, i) for i in chosen], context)
    return training, Calibration.of(
        training.held_out_scores.scores, training.held_out_scores.map_maxima, target
    )


def _bounds(seeds: int, fresh: int, above: int, count: int) -> tuple[float, float]:
    """Return the shares of rejects over all seeds that CHANCE exceeds downwards and upwards."""
    one = betabinom.pmf(np.arange(fresh + 1), fresh, above, count + 1 - above)
    size = seeds * fresh + 1
    cumulated = np.cumsum(np.fft.irfft(np.fft.rfft(one, size) ** seeds, size))
    fewest, most = np.searchsorted(cumulated, [CHANCE, 1 - CHANCE])
    return float(fewest / (size - 1)), float(most / (size - 1))


@contextmanager
def _cached_features() -> Iterator[None]:
    """Cache the backbone's features by image, because trainings differ only in the images they choose."""
    features: OrderedDict[bytes, Tensor] = OrderedDict()
    compute = FeatureExtractor.forward

    def cached(network: FeatureExtractor, images: Tensor) -> Tensor:
        keys = [image.numpy().tobytes() for image in images]
        if any(key not in features for key in keys):
            features.update(zip(keys, compute(network, images), strict=True))
        for key in keys:
            features.move_to_end(key)
        found = torch.stack([features[key] for key in keys])
        while len(features) > CACHED:
            features.popitem(last=False)  # mostly altered copies, which are used once
        return found

    with patch.object(FeatureExtractor, "forward", cached):
        yield


if __name__ == "__main__":
    main()
