# SPDX-License-Identifier: Apache-2.0
"""How often PatchCore rejects good images that it never saw, beside what its calibration promised.

Run ``python tests/benchmarks/bench_calibration.py``; images are drawn by blemish itself. Each seed trains
on other images of one pool by ``patchcore_training.train`` and scores good images of the pool that it left
out. The bound is passed with a probability of 1e-3 a row by a calibration that keeps its promise exactly.
"""

import argparse
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
from torch import Tensor

from blemish_client.demo.surfaces.specimen import CATEGORIES, Origin, draw
from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Image, Training, TrainingContext, silent
from blemish_core.detectors.patchcore.detector import PatchCoreSettings
from blemish_core.detectors.patchcore.network import PatchFeatures
from blemish_core.detectors.patchcore.training.train import train

CHANCE = 1e-3
REMEMBERED = 1000
CASES = ((4, 0.05), (8, 0.05), (12, 0.05), (19, 0.05), (19, 0.2), (57, 0.05), (57, 0.2), (147, 0.02))
"""Training images and target; below 20 images they are cross-calibrated, else some are held out."""


def main() -> None:
    """Print one row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--categories", nargs="*", default=CATEGORIES)
    parser.add_argument("--pool", type=int, default=220, help="good images of each category")
    parser.add_argument("--fresh", type=int, default=60, help="unseen good images for each seed")
    parser.add_argument("--seeds", type=int, default=20, help="trainings for each row")
    parser.add_argument("--size", type=int, default=128, help="sides of the images and the input, px")
    given = parser.parse_args()
    torch.set_num_threads(1)  # small inputs; repeatable beside other work
    settings = PatchCoreSettings(input_size=given.size, coreset_ratio=0.02)
    print(
        f"PatchCore, {given.size} px, seeds 0 to {given.seeds - 1}, {given.fresh} unseen good images each\n"
        "category  images  method             n  target  warranted  measured  bound (1e-3)    "
        "single trainings  90 % interval covers"
    )
    for category in given.categories:
        pool = [
            draw(Origin(category, "train", "good", index, 0, given.size)).image
            for index in range(given.pool)
        ]
        with _network_once_an_image():
            for images, target in CASES:
                _row(category, pool, images, target, settings, given.seeds, given.fresh)


def _row(
    category: str,
    pool: list[Image],
    images: int,
    target: float,
    settings: PatchCoreSettings,
    seeds: int,
    fresh: int,
) -> None:
    shares, covered, method, calibration = [], 0, "", None
    for seed in range(seeds):
        order = np.random.default_rng([seed, images]).permutation(len(pool))[: images + fresh]
        training, calibration = _trained(pool, order[fresh:], seed, target, settings)
        detector, method = training.detector, training.method
        scores = [
            outcome.score
            for start in range(0, fresh, 8)
            for outcome in detector.inspect(
                [detector.prepare(pool[i]) for i in order[start : min(start + 8, fresh)]]
            )
        ]
        shares.append(float(np.mean([calibration.anomalous(score) for score in scores])))
        lower, upper = calibration.false_reject_rate_interval
        # Of the rate of these images, which differs a little from the rate itself.
        covered += lower <= shares[-1] <= upper
    assert calibration is not None
    count, warranted = len(calibration.scores), calibration.warranted_false_reject_rate
    above = floor(round(warranted * (count + 1), 9))
    fewest, most = _bounds(seeds, fresh, above, count)
    print(
        f"{category:8}  {images:6}  {method:17}  {count:2}  {target:5.0%}   {warranted:7.1%}    "
        f"{np.mean(shares):6.1%}   {fewest:5.1%} to {most:5.1%}   "
        f"{min(shares):5.1%} to {max(shares):5.1%}  {covered:3} of {seeds}",
        flush=True,
    )


def _trained(
    pool: list[Image],
    chosen: NDArray[np.int64],
    seed: int,
    target: float,
    settings: PatchCoreSettings,
) -> tuple[Training, Calibration]:
    terms = TrainingContext(Path("nowhere"), seed, target, silent)
    training = train(settings, [partial(pool.__getitem__, i) for i in chosen], terms)
    return training, Calibration.of(training.held.scores, training.held.map_maxima, target)


def _bounds(seeds: int, fresh: int, above: int, count: int) -> tuple[float, float]:
    """Shares of rejects over all seeds that are passed downwards and upwards by CHANCE."""
    one = betabinom.pmf(np.arange(fresh + 1), fresh, above, count + 1 - above)
    size = seeds * fresh + 1
    cumulated = np.cumsum(np.fft.irfft(np.fft.rfft(one, size) ** seeds, size))
    fewest, most = np.searchsorted(cumulated, [CHANCE, 1 - CHANCE])
    return float(fewest / (size - 1)), float(most / (size - 1))


@contextmanager
def _network_once_an_image() -> Iterator[None]:
    """Keep what the backbone says of an image: trainings differ in the images they choose, not in that."""
    answers: OrderedDict[bytes, Tensor] = OrderedDict()
    compute = PatchFeatures.forward

    def remembered(network: PatchFeatures, images: Tensor) -> Tensor:
        keys = [image.numpy().tobytes() for image in images]
        if any(key not in answers for key in keys):
            answers.update(zip(keys, compute(network, images), strict=True))
        for key in keys:
            answers.move_to_end(key)
        found = torch.stack([answers[key] for key in keys])
        while len(answers) > REMEMBERED:
            answers.popitem(last=False)  # mostly copies with a spot altered, which do not come again
        return found

    with patch.object(PatchFeatures, "forward", remembered):
        yield


if __name__ == "__main__":
    main()
