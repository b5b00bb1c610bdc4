# SPDX-License-Identifier: Apache-2.0
"""Loading of a bundle's detector for a server: without torch, unless the bundle or the device needs it."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blemish_core.detectors.base import ServedDetector
from blemish_core.detectors.efficientad import settings as efficientad
from blemish_core.detectors.patchcore import settings as patchcore
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.bundle_files import read_checked, read_mask
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.runtimes.choice import TORCH, RuntimeChoice
from blemish_core.runtimes.openvino_network import OpenVinoNetwork
from blemish_core.serving.detector import ArrayDetector, TensorFile
from blemish_core.serving.efficientad import OUTPUTS, ServedEfficientAd
from blemish_core.serving.patchcore import ServedPatchCore

_LOADERS: Mapping[str, Callable[[Mapping[str, Any], TensorFile, OpenVinoNetwork], ArrayDetector]] = {
    patchcore.NAME: ServedPatchCore.load,
    efficientad.NAME: ServedEfficientAd.load,
}


def load_for_serving(
    folder: Path, device: str, choice: RuntimeChoice | None = None
) -> tuple[Manifest, ServedDetector[Any]]:
    """Load a bundle's detector, after checking all of its files against the manifest.

    Arguments and errors are those of ``models.loading.load_detector``.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if a file is missing or was changed, or the detector is unknown.
        FailedPrecondition: if the bundle or the machine lacks the requested runtime, or torch, which a
            bundle without an OpenVINO network needs.
    """
    choice = choice or RuntimeChoice()
    manifest = read_checked(folder)
    runtime = choice.among(manifest.runtimes, device, manifest.name)
    if runtime == TORCH:
        return _load_with_torch(folder, device, choice, manifest)
    card = manifest.runtimes[runtime]
    network = OpenVinoNetwork(
        folder / str(card.file), name=runtime, threads=choice.threads, lanes=choice.lanes
    )
    if manifest.detector == efficientad.NAME and network.outputs < OUTPUTS and _has_torch():
        return _load_with_torch(folder, device, choice, manifest)  # it has the teacher's features
    own = [folder / card.tensors] if card.tensors is not None else []
    tensors = TensorFile(folder / bundle.WEIGHTS, *own)
    detector = _LOADERS[manifest.detector](manifest.settings, tensors, network)
    detector.mask = read_mask(folder, manifest)
    return manifest, detector


def _load_with_torch(
    folder: Path, device: str, choice: RuntimeChoice, manifest: Manifest
) -> tuple[Manifest, ServedDetector[Any]]:
    if not _has_torch():
        raise FailedPrecondition(
            f"{manifest.name} runs on torch, which is not installed; train it again on a worker with "
            "OpenVINO, or install the server with `pip install 'blemish[core,server]'`"
        )
    from blemish_core.models.loading import load_detector

    return load_detector(folder, device, choice)


def _has_torch() -> bool:
    return find_spec("torch") is not None
