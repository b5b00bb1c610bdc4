# SPDX-License-Identifier: Apache-2.0
"""Time the preparation of a frame: decode it, then scale it to the model's input.

    python -m tests.benchmarks.bench_preparing [--rounds 15] [--size 256]

A lane prepares on one thread, and so does this benchmark. "torch" scales the same pixels as torchvision's
Resize does: bilinear, antialiased, in floats, and all three channels of a grey image too. The last column
is the largest difference between the two inputs, in standard deviations of ImageNet's colours.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tests.benchmarks.report import parser, section
from torch import Tensor
from torch.nn import functional

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.geometry import Square
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.platform.threads import disable_opencv_threads

_SIDES = ((512, 512), (1024, 1024), (2448, 2048))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frames(width: int, height: int) -> dict[str, ImageInput]:
    """Return one scene in the formats of cameras and files."""
    noise = np.random.default_rng(0).normal(128, 500, (height, width, 3))
    scene = np.clip(cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    grey = np.ascontiguousarray(scene[..., 0])

    def raw(name: str, samples: NDArray[np.uint8]) -> ImageInput:
        return ImageInput(samples.tobytes(), RawLayout(name, width, height))

    return {
        "Mono8": raw("Mono8", grey),
        "BayerRG8": raw("BayerRG8", grey),
        "RGB8": raw("RGB8", scene),
        "JPEG, grey": ImageInput(cv2.imencode(".jpg", grey)[1].tobytes()),
        "JPEG": ImageInput(cv2.imencode(".jpg", scene)[1].tobytes()),
    }


def scaled_by_torch(preprocessing: Preprocessing, image: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    size = preprocessing.geometry.input_size(image.shape[:2])
    small = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (_MEAN, _STD))
    return (small / 255 - mean) / deviation


def main() -> None:
    disable_opencv_threads()
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--size", type=int, default=256, help="sides of the model's input, px")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    preprocessing, limits = Preprocessing(Square(arguments.size), _MEAN, _STD), ImageLimits()
    with section("bench_preparing", "Preparing frames", arguments) as report:
        report.write(f"One thread, input of {arguments.size} px, medians of {arguments.rounds} rounds.\n")
        report.write(
            "| format | px | decoded, ms | scaled, ms | by torch, ms | torch / blemish | difference |"
        )
        report.write("|---|---|---|---|---|---|---|")
        for width, height in _SIDES:
            for name, frame in frames(width, height).items():
                pixels = frame.pixels(limits)
                plain = np.array(pixels, order="C")  # torch reads this without a copy
                steps: dict[str, Callable[[], object]] = {
                    "decoded": partial(frame.pixels, limits),
                    "scaled": partial(preprocessing, pixels),
                    "torch": partial(scaled_by_torch, preprocessing, plain),
                }
                took_ms: defaultdict[str, list[float]] = defaultdict(list)
                for _ in range(arguments.rounds):
                    for step, run in steps.items():
                        began = time.perf_counter()
                        run()
                        took_ms[step].append(1000 * (time.perf_counter() - began))
                decoded, scaled, by_torch = (median(took_ms[step]) for step in steps)
                difference = np.abs(
                    preprocessing(pixels) - scaled_by_torch(preprocessing, plain).numpy()
                ).max()
                report.write(
                    f"| {name} | {width} x {height} | {decoded:.1f} | {scaled:.1f} | {by_torch:.1f} "
                    f"| {by_torch / scaled:.1f} | {difference:.0e} |"
                )


if __name__ == "__main__":
    main()
