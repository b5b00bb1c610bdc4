# SPDX-License-Identifier: Apache-2.0
"""What pixel figures and their intervals cost: ``tests/benchmarks/bench_pixel_figures.py [IMAGES]``."""

import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from blemish_core.evaluation.pixel_figures import PixelTally

_SIDE = 256


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
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

    tally, adding_s = PixelTally(), 0.0
    for number in range(count):
        anomaly_map, mask = image(number)
        began = time.perf_counter()
        tally.add("spot" if mask.any() else "good", anomaly_map, mask)
        adding_s += time.perf_counter() - began
    began = time.perf_counter()
    figures = tally.figures()
    took_s = time.perf_counter() - began
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{count} maps of {_SIDE} px: {1000 * adding_s / count:.1f} ms to add one, {took_s:.2f} s for the"
    )
    print(f"figures with 1000 draws, {memory_mib} MiB of memory in all")
    for name, each in figures.items():
        print(name, each.value, each.interval)


if __name__ == "__main__":
    main()
