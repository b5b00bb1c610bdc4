# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of a detector's tensors in a bundle."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blemish_core.detectors.base import Detector
from blemish_core.detectors.common.torch_runtime import TorchRuntime
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.bundle_files import read_checked, read_mask
from blemish_core.runtimes.choice import TORCH, RuntimeChoice


def write_weights(detector: Detector, folder: Path) -> tuple[dict[str, str], int]:
    """Write the detector's tensors into ``folder``; return SHA-256 by file name, and the size in bytes."""
    file = folder / bundle.WEIGHTS
    save_file(detector.tensors(), file)
    return {bundle.WEIGHTS: bundle.sha256(file)}, file.stat().st_size


def load_detector(
    folder: Path, device: str, choice: RuntimeChoice | None = None
) -> tuple[Manifest, Detector]:
    """Load a bundle's detector, after checking all of its files against the manifest.

    Args:
        folder: the bundle.
        device: device of torch; with OpenVINO everything runs on the CPU.
        choice: the requested runtime; by default the fastest available one.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if a file is missing or was changed, or the detector is unknown.
        FailedPrecondition: if the bundle or the machine lacks the requested runtime.
    """
    choice = choice or RuntimeChoice()
    manifest = read_checked(folder)
    runtime = choice.among(manifest.runtimes, device, manifest.name)
    tensors = load_file(folder / bundle.WEIGHTS)
    mask = read_mask(folder, manifest)
    load = ALGORITHMS[manifest.detector].load
    if runtime == TORCH:
        detector = load(manifest.settings, tensors, device)
        detector.mask = mask
        # Created here, because the first frame would have to wait for it.
        detector.run_on(TorchRuntime(detector.network, torch.device(device)))
        return manifest, detector
    from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

    card = manifest.runtimes[runtime]
    if card.tensors is not None:
        tensors |= load_file(folder / card.tensors)
    detector = load(manifest.settings, tensors, "cpu")
    detector.mask = mask
    file = folder / str(card.file)
    detector.run_on(OpenVinoRuntime(file, name=runtime, threads=choice.threads, lanes=choice.lanes))
    detector.release_weights()  # OpenVINO has its own copy
    return manifest, detector
