# SPDX-License-Identifier: Apache-2.0
"""The measured speed of a worker, from which the cost of a training is estimated before it starts."""

import hashlib
import os
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.platform.files import atomic_write
from blemish_core.platform.processor import cpu_name

_LIBRARIES = ("blemish", "torch", "openvino", "anomalib")


class _StoredTimes(BaseModel):
    model_config = ConfigDict(frozen=True)


class PatchCoreRates(_StoredTimes):
    """Times of PatchCore, in seconds."""

    backbone: str
    """Backbone with which they were measured."""
    features_s: float
    """Time of a training for the features of one patch."""
    pair_s: float
    """Time of a training for the product of one patch and one bank entry."""
    frame_features_s: float
    """Time of a frame from its pixels to its features, for one patch."""
    frame_search_s: tuple[tuple[int, float], ...]
    """Numbers of bank entries, ascending, and the time to score one patch of a frame with them."""
    publish_s: float
    """Time of the export of a network."""
    checked_s: float
    """Time for one patch of a frame with which an exported network is checked and timed."""


class EfficientAdRates(_StoredTimes):
    """Times of EfficientAD, in seconds, of inputs of the default size."""

    size: str
    """Size of the networks with which they were measured."""
    solved: bool
    """Kind of the steps, as in the plan of a training."""
    teacher_s: float
    """Time of the teacher for one image."""
    step_s: float
    """Time of one step."""
    frame_s: float
    """Time of a frame from its pixels to its prediction."""


class TrainingRates(_StoredTimes):
    """The speed of one device of a worker. A frame is measured on one thread, a training on all."""

    device: str
    """Device of torch."""
    processor: str
    """Name of the CPU or GPU."""
    threads: int
    """Threads of a training on a CPU."""
    decode_s: float
    """Time to decode one pixel of an image."""
    patchcore: PatchCoreRates | None = None
    """None if it could not be measured, for example without the weights of the backbone."""
    efficientad: EfficientAdRates | None = None


class RatesFile:
    """The stored speed of a device, valid for one machine and one set of library versions.

    Args:
        folder: folder of such files, which workers of several machines may share.
        device: device as torch names it.
        runtime: configured runtime.
    """

    def __init__(self, folder: Path, device: str, runtime: str) -> None:
        machine = [cpu_name(), str(os.cpu_count()), device, runtime]
        if device != "cpu":
            machine.append(socket.gethostname())  # its GPU has no name without torch
        parts = [*machine, *(f"{name} {_version(name)}" for name in _LIBRARIES)]
        self._path = folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"

    def read(self) -> TrainingRates | None:
        """Return the stored speed; None if there is none, or the file is damaged."""
        try:
            return TrainingRates.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, rates: TrainingRates) -> None:
        """Store the speed.

        Raises:
            OSError: if the file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path, rates.model_dump_json().encode())


class StoredRates:
    """The stored speed of a worker's devices, each read until there is one.

    Args:
        folder: folder of the files.
        runtime: configured runtime.
    """

    def __init__(self, folder: Path, runtime: str) -> None:
        self._folder = folder
        self._runtime = runtime
        self._known: dict[str, TrainingRates] = {}

    def of(self, devices: Sequence[str]) -> tuple[TrainingRates, ...]:
        """Return the speed of those of the devices that were measured."""
        for device in set(devices) - self._known.keys():
            rates = RatesFile(self._folder, device, self._runtime).read()
            if rates is not None:
                self._known[device] = rates
        return tuple(self._known[device] for device in dict.fromkeys(devices) if device in self._known)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
