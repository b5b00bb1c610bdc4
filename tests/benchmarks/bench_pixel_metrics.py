# SPDX-License-Identifier: Apache-2.0
"""Measure the time and memory of pixel metrics and their intervals.

python -m tests.benchmarks.bench_pixel_metrics [--images 400]
"""

import resource
import time

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tests.benchmarks.report import parser, section

from blemish_core.evaluation.pixel_metrics import PixelHistograms

_SIDE = 256


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=400, help="anomaly maps")
    arguments = options.parse_args()
    count = arguments.images
    random = np.random.default_rng(0)
    noise = [gaussian_filter(random.normal(size=(_SIDE, _SIDE)), 4) * 2.4 for _ in range(20)]

    def image(number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        mask = np.zeros((_SIDE, _SIDE), np.bool_)
        for _ in range(2 if number % 2 else 0):
            top, left, height, width = random.integers((0, 0, 10, 10), (200, 200, 50, 50))
            mask[top : top + height, left : left + width] = True
        rolled = np.roll(noise[number % len(noise)], int(random.integers(_SIDE)), axis=0)
        lifted = random.uniform(0.3, 2) * gaussian_filter(mask.astype(np.float64), 3)
        return (2 + rolled + lifted).astype(np.float32), mask

    pixels, adding_s = PixelHistograms(), 0.0
    for number in range(count):
        anomaly_map, mask = image(number)
        began = time.perf_counter()
        pixels.add("spot" if mask.any() else "good", anomaly_map, mask)
        adding_s += time.perf_counter() - began
    began = time.perf_counter()
    metrics = pixels.metrics()
    took_s = time.perf_counter() - began
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with section("bench_pixel_metrics", "Pixel metrics", arguments) as report:
        report.write(f"{count} maps of {_SIDE} px; the metrics include intervals from 1,000 draws.\n")
        report.write("| adding a map, ms | metrics, s | peak memory, MiB |\n|---|---|---|")
        report.write(f"| {1000 * adding_s / count:.1f} | {took_s:.2f} | {memory_mib} |")
    for name, each in metrics.items():
        print(name, each.value, each.interval)


if __name__ == "__main__":
    main()
