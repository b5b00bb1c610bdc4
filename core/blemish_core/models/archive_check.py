# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_core.models.archive_check FOLDER``: check that a bundle runs on this machine.

OpenVINO is compared with torch where torch is installed. Elsewhere its scores of noise must be finite.

A separate process, because a hostile file may crash a library, and because the memory of the compared
runtimes is freed with the process. Noise of several grain sizes replaces the training images, which are not
available. On failure the exit code is 1 and the last line of stderr is the reason.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blemish_core.detectors.base import Image, Prediction
from blemish_core.models.bundle_files import read_checked
from blemish_core.platform.errors import BlemishError, FailedPrecondition, RuntimesDisagree
from blemish_core.runtimes.choice import INT8, OPENVINO, RuntimeChoice

_SIDE = 256
_SEED = 1


def check(folder: Path) -> None:
    """Score noise with every runtime of the bundle.

    Raises:
        BlemishError: if a file was changed, or OpenVINO's results differ from torch's.
        Exception: any error caused by unsuitable tensors or networks.
    """
    if find_spec("torch") is None:
        _check_without_torch(folder)
        return
    import torch

    from blemish_core.models.loading import load_detector
    from blemish_core.runtimes import parity

    manifest, reference = load_detector(folder, "cpu", RuntimeChoice("torch"))
    shape = reference.mask.shape if reference.mask else (_SIDE, _SIDE)
    noise = [reference.prepare(image) for image in _noise(shape)]
    with torch.inference_mode():
        _require_finite(reference.predict(noise))
        for name, card in manifest.runtimes.items():
            if card.file is None:
                continue
            if name == OPENVINO:
                _, other = load_detector(folder, "cpu", RuntimeChoice("openvino"))
                agreement = parity.compare(reference, other.runtime, noise, tolerance=parity.TOLERANCE)
                parity.check(agreement, name)
            elif name == INT8:
                _, other = load_detector(folder, "cpu", RuntimeChoice("openvino-int8"))
                other.predict(noise)  # its accuracy was measured at its training


def _check_without_torch(folder: Path) -> None:
    from blemish_core.serving.loading import load_for_serving

    names = [name for name, card in read_checked(folder).runtimes.items() if card.file is not None]
    if OPENVINO not in names:
        raise FailedPrecondition(
            "it has no OpenVINO network, and torch is not installed; install blemish[core]"
        )
    for choice in (RuntimeChoice("openvino"), RuntimeChoice("openvino-int8")):
        if choice.name in names:
            _, detector = load_for_serving(folder, "cpu", choice)
            shape = detector.mask.shape if detector.mask else (_SIDE, _SIDE)
            _require_finite(detector.predict([detector.prepare(image) for image in _noise(shape)]))


def _require_finite(predictions: Sequence[Prediction]) -> None:
    for outcome in predictions:
        if not (np.isfinite(outcome.score) and np.isfinite(outcome.anomaly_map).all()):
            raise ValueError("its scores are not finite")


def _noise(shape: tuple[int, int]) -> list[Image]:
    """Return RGB images of ``shape`` (H, W), with increasingly coarse noise."""
    random, images = np.random.default_rng(_SEED), []
    height, width = shape
    for grain in (1, 4, 16, 64):
        size = (-(-height // grain), -(-width // grain), 3)
        noise = random.integers(0, 256, size, dtype=np.uint8)
        images.append(np.kron(noise, np.ones((grain, grain, 1), np.uint8))[:height, :width])
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
