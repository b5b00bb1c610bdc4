# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of a detector's tensors in a bundle."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blemish_core.detectors.base import Detector
from blemish_core.detectors.common.torch_runtime import TorchRuntime
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.platform.errors import Corrupt, InvalidImage
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
    manifest = bundle.read_manifest(folder)
    for name, expected in manifest.sha256.items():
        if name.startswith(f"{bundle.REPORT}/"):
            continue  # never loaded
        if not (folder / name).is_file() or bundle.sha256(folder / name) != expected:
            raise Corrupt(f"{manifest.name}: {name} is not the file that was written; train again")
    if manifest.detector not in ALGORITHMS:
        raise Corrupt(f"{manifest.name} needs the detector {manifest.detector!r}; update blemish")
    runtime = choice.among(manifest.runtimes, device, manifest.name)
    tensors = load_file(folder / bundle.WEIGHTS)
    mask = _read_mask(folder, manifest)
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


def _read_mask(folder: Path, manifest: Manifest) -> FrameMask | None:
    if manifest.mask is None:
        return None
    try:
        mask = FrameMask.from_png((folder / bundle.MASK).read_bytes())
    except (FileNotFoundError, InvalidImage) as error:
        raise Corrupt(f"{manifest.name}: {bundle.MASK} cannot be read; train again") from error
    if mask.shape != (manifest.mask.height, manifest.mask.width):
        raise Corrupt(f"{manifest.name}: {bundle.MASK} has another size than its manifest; train again")
    if manifest.mask.reference is None:
        return mask
    try:
        return mask.with_reference((folder / bundle.REFERENCE).read_bytes())
    except (FileNotFoundError, InvalidImage) as error:
        raise Corrupt(f"{manifest.name}: {bundle.REFERENCE} cannot be read; train again") from error
