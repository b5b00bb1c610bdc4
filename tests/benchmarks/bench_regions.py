# SPDX-License-Identifier: Apache-2.0
"""Search by a part of an image: does it find the same defect, and say where? A table.

    python -m tests.benchmarks.bench_regions FOLDER [FOLDER ...] [--images 300] [--coreset 0.1]

Without folders it takes the three synthetic surfaces of the demo. A PatchCore learns from train/good. Each
defective test image with a ground truth is a query in turn, the box around the ground truth its part; all
other test images are looked at. P@5 as in ``bench_embeddings.py``; "points at it" is the share of the other
images of the same class whose most alike patch touches their ground truth; "overlap" is the median
intersection over union of the match's box and the box around that ground truth. "Good part": a query is the
middle quarter of a good image, and right are good images. Of each kind, --queries are drawn.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.bench_embeddings import GOOD, IMAGES, precision, read, trained

from blemish_client.demo.surfaces import CATEGORIES, generate
from blemish_core.calibration import Calibration
from blemish_core.detectors.base import PatchFeatures
from blemish_core.detectors.common.regions import Match, Spot, match, part_of, spot
from blemish_core.imaging.decode import read_mask
from blemish_core.imaging.image_input import Region


@dataclass(frozen=True)
class Seen:
    """A test image."""

    class_name: str
    shape: tuple[int, int]
    look: PatchFeatures
    truth: NDArray[np.bool_] | None
    """(H, W); None without a ground truth."""


def seen(folder: Path, images: int, coreset: float) -> tuple[list[Seen], float]:
    """All test images, and the pixel threshold."""
    training = trained(folder, images, coreset, whitened=True)
    calibration = Calibration.of(training.held.scores, training.held.map_maxima, 0.05)
    found = []
    for each in sorted(each for each in (folder / "test").rglob("*") if each.suffix.lower() in IMAGES):
        pixels = read(each)
        (look,) = training.detector.look([training.detector.prepare(pixels)])
        mask = folder / "ground_truth" / each.parent.name / f"{each.stem}_mask.png"
        truth = read_mask(mask.read_bytes()) if mask.exists() else None
        height, width, _ = pixels.shape
        found.append(Seen(each.parent.name, (height, width), look, truth))
    return found, calibration.pixel_threshold


def around(truth: NDArray[np.bool_]) -> Region:
    down, across = np.nonzero(truth)
    top, left = int(down.min()), int(across.min())
    return Region(left, top, int(across.max()) + 1 - left, int(down.max()) + 1 - top)


def overlap(one: Region, other: Region) -> float:
    """Intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    both = max(width, 0) * max(height, 0)
    return both / (one.width * one.height + other.width * other.height - both)


def points_at(found: Match, truth: NDArray[np.bool_]) -> bool:
    rows, columns = found.heat.shape
    row, column = map(int, np.unravel_index(int(found.heat.argmax()), found.heat.shape))
    height, width = truth.shape
    top, bottom = (row - 1) * height // rows, -(-(row + 2) * height // rows)
    left, right = (column - 1) * width // columns, -(-(column + 2) * width // columns)
    return bool(truth[max(top, 0) : bottom, max(left, 0) : right].any())


def rank(sought: Spot, found: Match, of: Seen) -> float:
    return float(sought.embedding @ of.look.outcome.embedding) + found.similarity


def row(folder: Path, images: int, coreset: float, queries: int) -> str:
    random = np.random.default_rng(0)
    test, threshold = seen(folder, images, coreset)
    classes = np.array([each.class_name for each in test])
    vectors = torch.from_numpy(np.stack([each.look.outcome.embedding for each in test]))
    by_image = vectors @ vectors.T
    by_part, pointed, overlaps = by_image.clone(), [], []
    with_truth = [number for number, of in enumerate(test) if of.truth is not None and of.truth.any()]
    asked = [int(number) for number in random.permutation(with_truth)[:queries]]
    for number in asked:
        query = test[number]
        assert query.truth is not None
        sought = spot(query.look, part_of(query.shape, around(query.truth)), threshold)
        for other, each in enumerate(test):
            found = match(each.look, each.shape, sought, threshold)
            by_part[number, other] = rank(sought, found, each)
            if other != number and each.class_name == query.class_name and each.truth is not None:
                pointed.append(points_at(found, each.truth))
                overlaps.append(overlap(found.box, around(each.truth)))
    quarters = by_image.clone()
    goods = [int(number) for number in random.permutation(np.flatnonzero(classes == GOOD))[:queries]]
    for number in goods:
        query = test[number]
        height, width = query.shape
        quarter = Region(width // 4, height // 4, width // 2, height // 2)
        sought = spot(query.look, part_of(query.shape, quarter), threshold)
        for other, each in enumerate(test):
            quarters[number, other] = rank(sought, match(each.look, each.shape, sought, threshold), each)
    cells = []
    for similarity in (by_image, by_part):
        sides, same = precision(similarity, classes, 5, asked)
        cells += [f"{sides:.2f}", f"{same:.2f}"]
    cells += [f"{np.mean(pointed):.2f}", f"{np.median(overlaps):.2f}"]
    cells += [f"{precision(by, classes, 5, goods)[0]:.2f}" for by in (by_image, quarters)]
    return " | ".join([folder.name, str(len(asked)), *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--images", type=int, default=300, help="good images learned from, at most")
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--queries", type=int, default=100, help="of each kind, at most")
    asked = parser.parse_args()
    print(
        "| surface | queries | whole image: side P@5 | class P@5 | part: side P@5 | class P@5 "
        "| points at it | overlap | good image: side P@5 | good part |"
    )
    print("|---" * 10 + "|")
    with tempfile.TemporaryDirectory() as made:
        folders = asked.folders
        if not folders:
            folders = [Path(made) / category for category in CATEGORIES]
            for folder in folders:
                generate(folder, folder.name, seed=0, train=80, good=20, defective=32, size=256)
        for folder in folders:
            print(f"| {row(folder, asked.images, asked.coreset, asked.queries)} |", flush=True)


if __name__ == "__main__":
    main()
