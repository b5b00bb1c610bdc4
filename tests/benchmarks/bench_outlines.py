# SPDX-License-Identifier: Apache-2.0
"""Measure the outlines of defects against masks: at the pixel threshold, at half the peak, and of regions.

    python -m tests.benchmarks.bench_outlines DATA [--sets NAME ...] [--train 100] [--test-per-class 10]

A PatchCore with default settings learns from each set of the folder DATA. Figures come from defective
images with a mask and a verdict of anomalous. Area is the median of the found area divided by the mask's.
IoU is the median of the intersection over union. "Half the peak" is the connected part of the map above the
middle of the image's median and its peak. "On the defect" is the share of images whose first peak lies on
the mask, by the map and by the region. Time is the median for one image on one thread.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.real.image_sets import (
    DATASET,
    ImageSet,
    SubsetLimits,
    find_sets,
    import_set,
    training_subset,
)
from tests.benchmarks.report import parser, section

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE, Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import TrainingContext, running_on, silent
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.evaluate import ImageSource, evaluate
from blemish_core.evaluation.scoring import ScoredImage
from blemish_core.imaging.decode import ImageLimits, read_mask
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.localization.defect_region import region_picture
from blemish_core.localization.find_regions import find_regions
from blemish_core.runtimes.choice import RuntimeChoice

_LANE = RuntimeChoice(threads=1)

Mask = NDArray[np.bool_]


@dataclass
class OutlineFigures:
    """The figures of one kind of outline over the images of a set."""

    areas: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)

    def add(self, found: Mask, truth: Mask) -> None:
        self.areas.append(float(found.sum() / truth.sum()))
        self.overlaps.append(float((found & truth).sum() / (found | truth).sum()))

    def __str__(self) -> str:
        return f"{median(self.areas):.2f} | {median(self.overlaps):.3f}"


@dataclass
class SetOutlines:
    """All figures of a set."""

    level: OutlineFigures = field(default_factory=OutlineFigures)
    half: OutlineFigures = field(default_factory=OutlineFigures)
    regions: OutlineFigures = field(default_factory=OutlineFigures)
    map_hits: list[bool] = field(default_factory=list)
    region_hits: list[bool] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        if not self.counts:
            return f"| {name} | 0 |" + " - |" * 10
        return (
            f"| {name} | {len(self.counts)} | {self.level} | {self.half} | {self.regions} | "
            f"{np.mean(self.map_hits):.2f} | {np.mean(self.region_hits):.2f} | {median(self.counts):.0f} | "
            f"{median(self.times_ms):.1f} |"
        )


def measure(scored: ScoredImage, images: ImageSet, calibration: Calibration, into: SetOutlines) -> None:
    """Add the outlines of one image, if it is judged anomalous and has a mask."""
    masks = images.store.masks_of(scored.image)
    if not masks or not calibration.is_anomalous(scored.prediction.score):
        return
    truth = np.logical_or.reduce([read_mask(mask) for mask in masks])
    pixels = ImageReader(images.store, ImageLimits(), [scored.image]).read_strict(scored.image)
    if truth.shape != pixels.shape[:2] or not truth.any():
        return
    threshold = calibration.pixel_threshold
    began = time.perf_counter()
    found = find_regions(scored.prediction.anomaly_map, pixels, threshold, calibration.regions)
    into.times_ms.append(1000 * (time.perf_counter() - began))
    into.counts.append(len(found))
    into.regions.add(region_picture(found, pixels.shape[:2]) > 0, truth)
    scores = np.asarray(cv2.resize(scored.prediction.anomaly_map, truth.shape[::-1]), np.float32)
    peak = np.unravel_index(int(scores.argmax()), scores.shape)
    into.map_hits.append(bool(truth[peak]))
    into.region_hits.append(bool(truth[found[0].peak[1], found[0].peak[0]]))
    into.level.add(scores > min(threshold, float(scores.max()) - 1e-6), truth)
    half = scores >= (float(np.median(scores)) + float(scores.max())) / 2
    _, parts = cv2.connectedComponents(half.astype(np.uint8), connectivity=8)
    into.half.add(np.asarray(parts == parts[peak]), truth)


def outlines(images: ImageSet, limits: SubsetLimits) -> SetOutlines:
    """Train on a set and measure the outlines of its test images."""
    torch.set_num_threads(1)
    train = images.store.images(DATASET, "train")
    reader = ImageReader(images.store, ImageLimits(), train)
    chosen = [train[number] for number in training_subset(len(train), 0, limits)]
    algorithm = ALGORITHMS["patchcore"]
    fast: Callable[..., object] = partial(faster_runtime, "cpu", _LANE)
    training = algorithm.train(
        algorithm.settings(),
        [partial(reader.read_strict, image) for image in chosen],
        TrainingContext(
            weights=images.folder / "weights",
            seed=0,
            target_false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
            progress=silent,
            fast_runtime=fast,  # type: ignore[arg-type]
        ),
    )
    held_out, detector, found = training.held_out_scores, training.detector, SetOutlines()
    calibration = Calibration.of(held_out.scores, held_out.map_maxima, DEFAULT_FALSE_REJECT_RATE)
    with running_on(detector, faster_runtime("cpu", _LANE, detector.network, detector.network_size)):
        evaluate(
            detector,
            calibration,
            ImageSource(images.store, ImageLimits(), DATASET),
            "cpu",
            silent,
            print,
            lambda scored: measure(scored, images, calibration, found),
        )
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path, help="folder of sets in MVTec AD's layout")
    options.add_argument("--sets", nargs="*", default=(), help="names of sets; all by default")
    options.add_argument("--train", type=int, default=100, help="training images of a set, at most")
    options.add_argument("--test-per-class", type=int, default=10, help="test images of a class, at most")
    given = options.parse_args()
    limits = SubsetLimits(given.train, given.test_per_class)
    with section("bench_outlines", "Outlines of defects", given) as report:
        report.write(
            "| set | images | threshold: area | IoU | half the peak: area | IoU | regions: area | IoU "
            "| on the defect: map | regions | regions of an image | ms |"
        )
        report.write("|---" * 12 + "|")
        for folder in find_sets(given.data, given.sets):
            with tempfile.TemporaryDirectory() as made:
                images = import_set(folder, Path(made) / "store", limits)
                report.write(outlines(images, limits).row(images.name))


if __name__ == "__main__":
    main()
