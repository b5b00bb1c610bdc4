# SPDX-License-Identifier: Apache-2.0
"""Measure search by a region of an image: the precision of its hits and of the places that they show.

    python -m tests.benchmarks.bench_regions [FOLDER ...] [--images 300] [--coreset 0.1]

Without folders the three synthetic surfaces of the demo are used. A PatchCore learns from train/good. Each
defective test image with a ground truth is a query, its region the box around the ground truth. All other
test images are compared with it. P@5 is that of bench_embeddings. "Located" is the share of other images of
the same class whose most similar patch touches their ground truth. "Overlap" is the median intersection
over union of the hit's box and the box around that ground truth. "Good region" queries are the middle
quarters of good images, and good images are right.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.bench_embeddings import GOOD, IMAGES, precision, read, surfaces, trained
from tests.benchmarks.report import parser, section

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import PatchFeatures
from blemish_core.detectors.common.regions import (
    RegionMatch,
    RegionQuery,
    describe_region,
    locate_region,
    region_mask,
)
from blemish_core.imaging.decode import read_mask
from blemish_core.imaging.image_input import Region


@dataclass(frozen=True)
class TestImage:
    """A test image, its features and its ground truth."""

    class_name: str
    shape: tuple[int, int]
    look: PatchFeatures
    truth: NDArray[np.bool_] | None
    """(H, W); None without a ground truth."""


def test_images(folder: Path, images: int, coreset: float) -> tuple[list[TestImage], float]:
    """Return all test images and the pixel threshold."""
    training = trained(folder, images, coreset, whitened=True)
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    found = []
    for each in sorted(each for each in (folder / "test").rglob("*") if each.suffix.lower() in IMAGES):
        pixels = read(each)
        (look,) = training.detector.predict_with_patches([training.detector.prepare(pixels)])
        mask = folder / "ground_truth" / each.parent.name / f"{each.stem}_mask.png"
        truth = read_mask(mask.read_bytes()) if mask.exists() else None
        height, width, _ = pixels.shape
        found.append(TestImage(each.parent.name, (height, width), look, truth))
    return found, calibration.pixel_threshold


def around(truth: NDArray[np.bool_]) -> Region:
    """Return the smallest box around the true pixels of a mask (H, W)."""
    down, across = np.nonzero(truth)
    top, left = int(down.min()), int(across.min())
    return Region(left, top, int(across.max()) + 1 - left, int(down.max()) + 1 - top)


def overlap(one: Region, other: Region) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    both = max(width, 0) * max(height, 0)
    return both / (one.width * one.height + other.width * other.height - both)


def is_located(found: RegionMatch, truth: NDArray[np.bool_]) -> bool:
    """Return whether the most similar patch of the match touches the ground truth."""
    rows, columns = found.heat.shape
    row, column = map(int, np.unravel_index(int(found.heat.argmax()), found.heat.shape))
    height, width = truth.shape
    top, bottom = (row - 1) * height // rows, -(-(row + 2) * height // rows)
    left, right = (column - 1) * width // columns, -(-(column + 2) * width // columns)
    return bool(truth[max(top, 0) : bottom, max(left, 0) : right].any())


def rank(sought: RegionQuery, found: RegionMatch, of: TestImage) -> float:
    return float(sought.embedding @ of.look.prediction.embedding) + found.similarity


def row(folder: Path, images: int, coreset: float, queries: int) -> str:
    """Return the cells of one dataset."""
    random = np.random.default_rng(0)
    test, threshold = test_images(folder, images, coreset)
    classes = np.array([each.class_name for each in test])
    vectors = torch.from_numpy(np.stack([each.look.prediction.embedding for each in test]))
    by_image = vectors @ vectors.T
    by_part, located, overlaps = by_image.clone(), [], []
    with_truth = [number for number, each in enumerate(test) if each.truth is not None and each.truth.any()]
    drawn = [int(number) for number in random.permutation(with_truth)[:queries]]
    for number in drawn:
        query = test[number]
        assert query.truth is not None
        sought = describe_region(query.look, region_mask(query.shape, around(query.truth)), threshold)
        for other, each in enumerate(test):
            found = locate_region(each.look, each.shape, sought, threshold)
            by_part[number, other] = rank(sought, found, each)
            if other != number and each.class_name == query.class_name and each.truth is not None:
                located.append(is_located(found, each.truth))
                overlaps.append(overlap(found.box, around(each.truth)))
    quarters = by_image.clone()
    goods = [int(number) for number in random.permutation(np.flatnonzero(classes == GOOD))[:queries]]
    for number in goods:
        query = test[number]
        height, width = query.shape
        quarter = Region(width // 4, height // 4, width // 2, height // 2)
        sought = describe_region(query.look, region_mask(query.shape, quarter), threshold)
        for other, each in enumerate(test):
            quarters[number, other] = rank(
                sought, locate_region(each.look, each.shape, sought, threshold), each
            )
    cells = []
    for similarity in (by_image, by_part):
        sides, same = precision(similarity, classes, 5, drawn)
        cells += [f"{sides:.2f}", f"{same:.2f}"]
    cells += [f"{np.mean(located):.2f}", f"{np.median(overlaps):.2f}"]
    cells += [f"{precision(by, classes, 5, goods)[0]:.2f}" for by in (by_image, quarters)]
    return " | ".join([folder.name, str(len(drawn)), *cells])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folders", type=Path, nargs="*", help="datasets in MVTec AD's layout")
    options.add_argument("--images", type=int, default=300, help="good training images, at most")
    options.add_argument("--coreset", type=float, default=0.1, help="share of patches kept")
    options.add_argument("--queries", type=int, default=100, help="queries of each kind, at most")
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_regions", "Search by region", given) as report,
    ):
        report.write(
            "| surface | queries | whole image: side P@5 | class P@5 | region: side P@5 | class P@5 "
            "| located | overlap | good image: side P@5 | good region |"
        )
        report.write("|---" * 10 + "|")
        for folder in given.folders or surfaces(Path(made)):
            report.write(f"| {row(folder, given.images, given.coreset, given.queries)} |")


if __name__ == "__main__":
    main()
