# SPDX-License-Identifier: Apache-2.0
"""What becomes of a frame before the network: read, then scaled to the model's input.

    python -m tests.benchmarks.bench_preparing [--rounds 15] [--size 256]

One thread, as a lane has. "torch" scales the same pixels as torchvision's Resize does, the three channels
of a grey one too: bilinear, with antialiasing, on floats. All take turns; each figure is the median of the
rounds. Also told is by how much the inputs differ at most, in standard deviations of ImageNet's colours.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.imaging.preprocessing import Preprocessing

_SIDES = ((512, 512), (1024, 1024), (2448, 2048))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(width: int, height: int) -> dict[str, ImageInput]:
    """One scene as cameras and files hold it."""
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


def of_torch(preprocessing: Preprocessing, image: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    size = (preprocessing.size, preprocessing.size)
    small = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]
    return preprocessing.normalized(small / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=256)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    preprocessing, limits = Preprocessing(asked.size, _MEAN, _STD), ImageLimits()
    print("| picture | px | read, ms | scaled, ms | by torch | torch's time | difference |")
    print("|---|---|---|---|---|---|---|")
    for width, height in _SIDES:
        for name, picture in pictures(width, height).items():
            pixels = picture.pixels(limits)
            plain = np.array(pixels, order="C")  # which torch takes as it is
            work: dict[str, Callable[[], object]] = {
                "read": partial(picture.pixels, limits),
                "scaled": partial(preprocessing, pixels),
                "torch": partial(of_torch, preprocessing, plain),
            }
            took_ms: defaultdict[str, list[float]] = defaultdict(list)
            for _ in range(asked.rounds):
                for what, do in work.items():
                    began = time.perf_counter()
                    do()
                    took_ms[what].append(1000 * (time.perf_counter() - began))
            read, scaled, torchs = (median(took_ms[what]) for what in work)
            apart = (preprocessing(pixels) - of_torch(preprocessing, plain)).abs().max()
            print(
                f"| {name} | {width} x {height} | {read:.1f} | {scaled:.1f} | {torchs:.1f} "
                f"| {torchs / scaled:.1f} x | {apart:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
