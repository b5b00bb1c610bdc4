# SPDX-License-Identifier: Apache-2.0
"""What p-values say of a camera that changes, and when rejects say it: good images under other conditions.

Run ``python -m tests.benchmarks.bench_drift``. PatchCore learns from the demo's good images; good images
that it never saw are scored as they are, and darker, out of focus or with a sensor's noise. How far they
then score like defects seen as before: image AUROC. With ``--no-whitened`` of the paper's PatchCore.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

from blemish_client.demo.surfaces.specimen import CATEGORIES, CLASSES, Origin, draw
from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Detector, Image, TrainingContext, silent
from blemish_core.detectors.patchcore.detector import PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import train
from blemish_core.evaluation.metrics import image_auroc
from blemish_server.metrics.metrics import LOW

SIZE = 256
TARGET = 0.05
DEFECTS = 32


def darker(image: Image, gain: float) -> Image:
    return np.asarray(np.rint(image * gain), np.uint8)


def blurred(image: Image, deviation_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation_px), np.uint8)


def noisy(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.asarray(np.rint(np.clip(image + noise, 0, 255)), np.uint8)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "none": lambda image: image,
    **{f"light x {gain}": partial(darker, gain=gain) for gain in (0.9, 0.8, 0.7)},
    **{f"blurred by {px} px": partial(blurred, deviation_px=px) for px in (0.5, 0.7, 1.0)},
    **{f"noise of {level} of 255": partial(noisy, deviation=level) for level in (2, 4, 8)},
}


def main() -> None:
    """Print one row for each change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=80, help="good images learned from, a fifth held out")
    parser.add_argument("--fresh", type=int, default=60, help="good images scored")
    parser.add_argument("--no-whitened", action="store_true", help="the paper's PatchCore")
    given = parser.parse_args()
    settings = PatchCoreSettings(whitened=not given.no_whitened)
    columns = {category: _column(settings, category, given.images, given.fresh) for category in CATEGORIES}
    print(
        f"PatchCore, {SIZE} px; of {given.fresh} good images those with p <= {LOW:g}, those rejected, and "
        f"image AUROC of all with {DEFECTS} defects:\n"
    )
    print(f"| change | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for change in CHANGES:
        cells = (", ".join(f"{figure:.2f}" for figure in of[change]) for of in columns.values())
        print(f"| {change} | {' | '.join(cells)} |")


def _column(
    settings: PatchCoreSettings, category: str, images: int, fresh: int
) -> dict[str, tuple[float, float, float]]:
    """Share with a low p-value, share rejected and image AUROC, by change."""
    learned = [draw(Origin(category, "train", "good", number, 0, SIZE)).image for number in range(images)]
    terms = TrainingContext(Path("nowhere"), 0, TARGET, silent)
    training = train(settings, [partial(learned.__getitem__, i) for i in range(images)], terms)
    judge = Calibration.of(training.held.scores, training.held.map_maxima, TARGET)
    good = [draw(Origin(category, "test", "good", number, 0, SIZE)).image for number in range(fresh)]
    defects = [
        draw(Origin(category, "test", kind, number, 0, SIZE)).image
        for number, kind in zip(range(DEFECTS), cycle(CLASSES[category]), strict=False)
    ]
    of_defects = _scores(training.detector, defects)
    shares = {}
    for name, change in CHANGES.items():
        scores = _scores(training.detector, [change(image) for image in good])
        low = np.mean([judge.p_value(score) <= LOW for score in scores])
        rejected = np.mean([judge.anomalous(score) for score in scores])
        shares[name] = float(low), float(rejected), image_auroc(scores, of_defects) or 0.0
    return shares


def _scores(detector: Detector, images: list[Image]) -> list[float]:
    return [detector.inspect([detector.prepare(image)])[0].score for image in images]


if __name__ == "__main__":
    main()
