# SPDX-License-Identifier: Apache-2.0
"""Measure how p-values and rejects respond to a change of the camera: light, focus and noise.

    python -m tests.benchmarks.bench_drift [--no-whitened]

PatchCore learns from the demo's good images. Unseen good images are scored unchanged, darker, out of focus
and with a sensor's noise. The image AUROC compares them with defects under unchanged conditions.
``--no-whitened`` measures the PatchCore of the paper.
"""

from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from tests.benchmarks.report import parser, section

from blemish_client.demo.surfaces.specimen import CATEGORIES, CLASSES, Origin, draw
from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Detector, Image, TrainingContext, silent
from blemish_core.detectors.patchcore.settings import PatchCoreSettings, requested
from blemish_core.detectors.patchcore.training.train import train
from blemish_core.evaluation.metrics import image_auroc
from blemish_server.metrics.server_metrics import LOW_P_VALUE

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
    """Write one row for each change."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=80, help="good training images, a fifth held out")
    options.add_argument("--fresh", type=int, default=60, help="good images scored")
    options.add_argument("--no-whitened", action="store_true", help="the PatchCore of the paper")
    arguments = options.parse_args()
    name = "bench_drift_no_whitened" if arguments.no_whitened else "bench_drift"
    title = "Camera drift" + (", PatchCore of the paper" if arguments.no_whitened else "")
    settings = requested(whitened=not arguments.no_whitened)
    with section(name, title, arguments) as report:
        columns = {
            category: _column(settings, category, arguments.images, arguments.fresh)
            for category in CATEGORIES
        }
        report.write(
            f"PatchCore, {SIZE} px. Each cell: share of {arguments.fresh} good images with "
            f"p <= {LOW_P_VALUE:g}, share rejected, and image AUROC against {DEFECTS} defects.\n"
        )
        report.write(f"| change | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for change in CHANGES:
            cells = (", ".join(f"{figure:.2f}" for figure in each[change]) for each in columns.values())
            report.write(f"| {change} | {' | '.join(cells)} |")


def _column(
    settings: PatchCoreSettings, category: str, images: int, fresh: int
) -> dict[str, tuple[float, float, float]]:
    """Return the share with a low p-value, the share rejected and the image AUROC, by change."""
    learned = [draw(Origin(category, "train", "good", number, 0, SIZE)).image for number in range(images)]
    context = TrainingContext(Path("nowhere"), 0, TARGET, silent)
    training = train(settings, [partial(learned.__getitem__, i) for i in range(images)], context)
    calibration = Calibration.of(
        training.held_out_scores.scores, training.held_out_scores.map_maxima, TARGET
    )
    good = [draw(Origin(category, "test", "good", number, 0, SIZE)).image for number in range(fresh)]
    defects = [
        draw(Origin(category, "test", kind, number, 0, SIZE)).image
        for number, kind in zip(range(DEFECTS), cycle(CLASSES[category]), strict=False)
    ]
    defect_scores = _scores(training.detector, defects)
    shares = {}
    for name, change in CHANGES.items():
        scores = _scores(training.detector, [change(image) for image in good])
        low = np.mean([calibration.p_value(score) <= LOW_P_VALUE for score in scores])
        rejected = np.mean([calibration.is_anomalous(score) for score in scores])
        shares[name] = float(low), float(rejected), image_auroc(scores, defect_scores) or 0.0
    return shares


def _scores(detector: Detector, images: list[Image]) -> list[float]:
    return [detector.predict([detector.prepare(image)])[0].score for image in images]


if __name__ == "__main__":
    main()
