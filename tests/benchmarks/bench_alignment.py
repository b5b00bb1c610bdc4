# SPDX-License-Identifier: Apache-2.0
"""Measure the alignment of frames: known motions of real images, unrelated frames, and the time of a frame.

    python -m tests.benchmarks.bench_alignment DATA [--images 12] [--trials 5]

The reference is the middle of an image, 60 % of its sides. Frames show it after shifts of up to 15 % of the
sides and rotations of up to 8 degrees. Strips longer than four times their height turn by up to 1 degree.
Frames are up to 15 % darker or brighter, with noise of 3 grey levels.

"Refused" counts references that are too uniform or repeat themselves. "Wrong" counts aligned frames more
than 2 % of the longer side or 2 degrees off. "Unrelated" counts the middles of other images that were
aligned. A scene that all images of a set share, such as the edge of a table, is aligned rightly.

Times are the processor time of one thread, the least of twelve runs. Times of masks include the alignment,
if there is one, and the replacement of ignored pixels.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.benchmarks.report import parser, section
from tests.support.moving_part import STILL, Frame, seen, texture

from blemish_core.imaging.alignment import Aligner, Motion
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.platform.errors import FailedPrecondition

_SHARE = 0.6
_STRIP = 4
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
_FRAMES = ((480, 640), (2048, 2448))


@dataclass
class Figures:
    """The results of one set of images."""

    refused: int = 0
    frames: int = 0
    wrong: int = 0
    errors_px: list[float] = field(default_factory=list)
    errors_deg: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    unrelated: int = 0
    unrelated_aligned: int = 0

    def add(self, found: Motion, true: Motion, quality: float, longer: int) -> None:
        error_px = math.hypot(found.dx_px - true.dx_px, found.dy_px - true.dy_px)
        error_deg = abs(found.angle_deg - true.angle_deg)
        self.errors_px.append(error_px)
        self.errors_deg.append(error_deg)
        self.qualities.append(quality)
        self.wrong += error_px > 0.02 * longer or error_deg > 2

    def row(self, name: str, shape: tuple[int, int], images: int) -> str:
        def cuts(values: list[float]) -> str:
            if not values:
                return "none | none"
            return " | ".join(f"{cut:.2f}" for cut in np.quantile(values, (0.5, 0.95)))

        lowest = f"{min(self.qualities):.2f}" if self.qualities else "none"
        return (
            f"| {name} | {shape[1]} x {shape[0]} | {self.refused} of {images} "
            f"| {len(self.errors_px)} of {self.frames} | {cuts(self.errors_px)} | {cuts(self.errors_deg)} "
            f"| {self.wrong} | {lowest} | {self.unrelated_aligned} of {self.unrelated} |"
        )


def middle(image: Frame) -> tuple[int, int]:
    return round(_SHARE * image.shape[0]), round(_SHARE * image.shape[1])


def disturbed(frame: Frame, random: np.random.Generator) -> Frame:
    noisy = frame * random.uniform(0.85, 1.15) + random.normal(0, 3, frame.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def measure(images: list[Frame], trials: int) -> Figures:
    """Align each image's middle after known motions, and to the middles of the other images."""
    figures, random = Figures(), np.random.default_rng(0)
    aligners: list[Aligner | None] = []
    for image in images:
        shape = middle(image)
        try:
            aligner = Aligner.of_image(seen(image, STILL, shape), np.ones(shape, np.bool_))
        except FailedPrecondition:
            figures.refused += 1
            aligners.append(None)
            continue
        aligners.append(aligner)
        largest = 1 if max(shape) > _STRIP * min(shape) else 8
        for _ in range(trials):
            dx, dy = random.uniform(-0.15, 0.15, 2) * (shape[1], shape[0])
            motion = Motion(float(dx), float(dy), float(random.uniform(-largest, largest)))
            found = aligner.align(disturbed(seen(image, motion, shape), random))
            figures.frames += 1
            if found.motion is not None:
                figures.add(found.motion, motion, found.quality, max(shape))
    for (one, to_one), (other, _) in permutations(zip(images, aligners, strict=True), 2):
        if to_one is not None and one.shape == other.shape:
            figures.unrelated += 1
            shown = disturbed(seen(other, STILL, middle(other)), random)
            figures.unrelated_aligned += to_one.align(shown).motion is not None
    return figures


def read(folder: Path, number: int) -> list[Frame]:
    """Return a random choice of the good images of a set, or of a folder of photographs."""
    files = sorted(
        file
        for part in ("train/good", "photos")
        for file in folder.glob(f"{part}/*")
        if file.suffix.lower() in _SUFFIXES
    )
    chosen = np.random.default_rng(0).permutation(len(files))[:number]
    return [np.asarray(Image.open(files[each]).convert("RGB")) for each in chosen]


def spent_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(12):
        began = time.process_time()
        run()
        times.append(1000 * (time.process_time() - began))
    return min(times)


def times(shape: tuple[int, int]) -> str:
    height, width = shape
    surface = texture(0, 2 * width // 64 * 64)
    looks: NDArray[np.bool_] = np.ones(shape, np.bool_)
    looks[:, : width // 4] = False
    still = FrameMask(looks)
    moving = still.aligned_to(seen(surface, STILL, shape))
    frame = seen(surface, Motion(0.05 * width, -0.04 * height, 3), shape)
    return (
        f"| {width} x {height} | {spent_ms(lambda: moving.align(frame)):.1f} "
        f"| {spent_ms(lambda: still.apply(frame)):.1f} | {spent_ms(lambda: moving.apply(frame)):.1f} |"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path, help="folder of sets in MVTec AD's layout")
    options.add_argument("--images", type=int, default=12, help="images of a set, at most")
    options.add_argument("--trials", type=int, default=5, help="motions of an image")
    given = options.parse_args()
    cv2.setNumThreads(1)
    with section("bench_alignment", "Alignment of frames", given) as report:
        report.write(
            "| set | frame | refused | aligned | error, px: median | p95 | degrees: median | p95 | wrong "
            "| lowest quality | unrelated aligned |"
        )
        report.write("|---" * 11 + "|")
        for folder in sorted(given.data.iterdir()):
            if images := read(folder, given.images) if folder.is_dir() else []:
                report.write(measure(images, given.trials).row(folder.name, middle(images[0]), len(images)))
        report.write()
        report.write("| frame | alignment, ms | mask that stays, ms | mask that moves, ms |")
        report.write("|---" * 4 + "|")
        for shape in _FRAMES:
            report.write(times(shape))


if __name__ == "__main__":
    main()
