# SPDX-License-Identifier: Apache-2.0
"""From a detector to a bundle's tensors and back."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blemish_core.detectors.base import Detector
from blemish_core.detectors.common.torch_runtime import TorchRuntime
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.platform.errors import Corrupt
from blemish_core.runtimes.choice import TORCH, RuntimeChoice


def write_weights(detector: Detector, folder: Path) -> tuple[dict[str, str], int]:
    """Write the detector's tensors into ``folder``; return sha256 by file name, and bytes in all."""
    file = folder / bundle.WEIGHTS
    save_file(detector.tensors(), file)
    return {bundle.WEIGHTS: bundle.sha256(file)}, file.stat().st_size


def load_detector(
    folder: Path, device: str, choice: RuntimeChoice | None = None
) -> tuple[Manifest, Detector]:
    """Rebuild a bundle's detector, after checking every file of it against the manifest.

    Args:
        folder: the bundle.
        device: where torch runs; OpenVINO runs on the CPU, and what torch does beside it does too.
        choice: the runtime asked for; the fastest there is by default.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if a file is missing or not what was written, or the detector is unknown.
        FailedPrecondition: if the bundle or the machine has not the runtime asked for.
    """
    choice = choice or RuntimeChoice()
    manifest = bundle.read_manifest(folder)
    for name, expected in manifest.sha256.items():
        if name.startswith(f"{bundle.REPORT}/"):
            continue  # is only looked at
        if not (folder / name).exists() or bundle.sha256(folder / name) != expected:
            raise Corrupt(f"{manifest.name}: {name} is not what training wrote; train again")
    if manifest.detector not in ALGORITHMS:
        raise Corrupt(f"{manifest.name} was made by {manifest.detector!r}, unknown to this blemish")
    runtime = choice.among(manifest.runtimes, device, manifest.name)
    tensors = load_file(folder / bundle.WEIGHTS)
    load = ALGORITHMS[manifest.detector].load
    if runtime == TORCH:
        detector = load(manifest.settings, tensors, device)
        # Made now, not by whichever frame is first.
        detector.run_on(TorchRuntime(detector.network, torch.device(device)))
        return manifest, detector
    from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

    detector = load(manifest.settings, tensors, "cpu")
    file = folder / str(manifest.runtimes[runtime].file)
    detector.run_on(OpenVinoRuntime(file, name=runtime, threads=choice.threads, lanes=choice.lanes))
    detector.release_weights()  # two copies need twice the memory
    return manifest, detector
