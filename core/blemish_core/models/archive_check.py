# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_core.models.archive_check FOLDER``: whether a bundle can be run on this machine.

A process of its own, so that files which bring a library down bring nothing else down, and what is loaded
to compare runtimes is gone afterwards. The images that the version was trained on are not at hand: noise,
smooth and sharp, stands for them. Exits with 1 and the reason as the last line of stderr.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from blemish_core.detectors.base import Image
from blemish_core.models.loading import load_detector
from blemish_core.platform.errors import BlemishError, RuntimesDisagree
from blemish_core.runtimes import parity
from blemish_core.runtimes.choice import INT8, OPENVINO, RuntimeChoice

_SIDE = 256
_SEED = 1


def check(folder: Path) -> None:
    """Score noise on every runtime that the bundle has.

    Raises:
        BlemishError: if a file is not what was written, or OpenVINO's answers are not torch's.
        Exception: whatever comes of tensors or a network that fit nothing.
    """
    manifest, reference = load_detector(folder, "cpu", RuntimeChoice("torch"))
    noise = [reference.prepare(image) for image in _noise()]
    with torch.inference_mode():
        for outcome in reference.predict(noise):
            if not (np.isfinite(outcome.score) and np.isfinite(outcome.anomaly_map).all()):
                raise ValueError("its scores are not finite")
        for name, card in manifest.runtimes.items():
            if card.file is None:
                continue
            if name == OPENVINO:
                _, other = load_detector(folder, "cpu", RuntimeChoice("openvino"))
                agreement = parity.compare(reference, other.runtime, noise, tolerance=parity.TOLERANCE)
                parity.check(agreement, name)
            elif name == INT8:
                _, other = load_detector(folder, "cpu", RuntimeChoice("openvino-int8"))
                other.predict(noise)  # how well it does was measured where it was made


def _noise() -> list[Image]:
    """RGB images (H, W, 3) of noise, coarser from one to the next."""
    random, images = np.random.default_rng(_SEED), []
    for grain in (1, 4, 16, 64):
        side = _SIDE // grain
        noise = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        images.append(np.kron(noise, np.ones((grain, grain, 1), np.uint8)))
    return images


def main() -> int:
    try:
        check(Path(sys.argv[1]))
    except RuntimesDisagree as error:
        print(str(error).partition(". Nothing was")[0], file=sys.stderr)
    except BlemishError as error:
        print(error, file=sys.stderr)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
