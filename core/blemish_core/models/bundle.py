# SPDX-License-Identifier: Apache-2.0
"""A bundle: one model version on disk, a manifest and tensors. No file of it can execute code.

::

    manifest.json         settings, metrics, hashes
    weights.safetensors   all tensors
    mask.png              mask, if there is one
    reference.png         image to align with
    openvino/             networks: model.xml, int8.xml, int8.safetensors
    report/               report, never loaded

A published bundle never changes. Later additions are stored next to it: calibrations
(``calibration_log``), and the reports of evaluation jobs in ``evaluations/<job>/``.

Module ``loading`` reads and writes the tensors. This module does not import torch, so that processes that
only list models start quickly.
"""

import errno
import hashlib
import platform
import stat
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blemish_core.calibration import Calibration
from blemish_core.evaluation.metrics import Metrics
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.bounded import Count, Time
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.files import atomic_write
from blemish_core.platform.names import MAX_VERSION
from blemish_core.runtimes.card import FrameLatency, RuntimeCard
from blemish_layouts.reading import read_regular

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
REPORT = "report"
OPENVINO = "openvino"
MASK = "mask.png"
REFERENCE = "reference.png"
FORMAT = 2
"""Format of new versions. Older servers, which would ignore masks and scales, refuse it."""
FORMAT_WITH_RUNTIME_TENSORS = 3
"""Format of versions of which a runtime has tensors of its own. Older servers, which would run the
quantized network with the other memory bank, refuse it."""
_READ_FORMATS = (1, FORMAT, FORMAT_WITH_RUNTIME_TENSORS)
_NEWEST = max(_READ_FORMATS)
_MAX_MANIFEST_BYTES = 64 << 20
"""Longest manifest; one with the scores of a million held-out images is shorter."""


class TrainingSplit(BaseModel):
    """Numbers of training images by their use."""

    model_config = ConfigDict(frozen=True)

    learned: Count
    held_out: Count
    method: str
    skipped: Count = 0
    """Number of unreadable training images."""


class Manifest(BaseModel):
    """The manifest of a model version."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    model: str
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    detector: str
    settings: Mapping[str, Any]
    input_size: Count
    category: str
    dataset: str
    """Id of the training dataset."""
    dataset_snapshot: str
    created: Time
    job: str
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    split: TrainingSplit
    white_level: WhiteLevel | None = None
    """White level of the training images; None for versions before there were levels."""
    mask: MaskSummary | None = None
    """Description of the file ``mask.png``; None if the model looks at all pixels."""
    training: Mapping[str, str] = {}
    """Further facts about the training: steps, teacher, ..."""
    calibration: Calibration
    """Calibration from training; ``calibration_log`` may contain a later one."""
    metrics: Metrics | None
    runtimes: Mapping[str, RuntimeCard] = {}
    """Runtimes other than torch, by name; empty in old bundles."""
    latencies: tuple[FrameLatency, ...] = ()
    """Measured time of a frame by each runtime; empty in old bundles."""
    libraries: Mapping[str, str]
    sha256: Mapping[str, str]
    """SHA-256 of each other file of the bundle, in hex."""
    size_bytes: Annotated[int, Field(ge=0, lt=1 << 63)]

    @property
    def name(self) -> str:
        return f"models/{self.model}/versions/{self.version}"

    def calibration_under(self, runtime: str) -> Calibration:
        """Return the calibration from training for ``runtime``, whose scores may differ from torch's."""
        card = self.runtimes.get(runtime)
        if card is None or card.held_out is None:
            return self.calibration
        return Calibration.of(
            card.held_out.scores, card.held_out.map_maxima, self.calibration.target_false_reject_rate
        )


def format_of(runtimes: Mapping[str, RuntimeCard]) -> int:
    """Return the format of a new version with these runtimes."""
    with_tensors = any(card.tensors is not None for card in runtimes.values())
    return FORMAT_WITH_RUNTIME_TENSORS if with_tensors else FORMAT


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect a model's metrics."""
    names = ("anomalib", "blemish", "numpy", "openvino", "pillow", "timm", "torch", "torchvision")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def sha256_below(folder: Path, part: str) -> dict[str, str]:
    """Return the SHA-256 of all files in one folder of the bundle, by name."""
    return {f"{part}/{file.name}": sha256(file) for file in sorted((folder / part).iterdir())}


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write or replace a bundle's manifest."""
    atomic_write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if this version of blemish cannot read it.
    """
    try:
        text = read_regular(folder / MANIFEST, _MAX_MANIFEST_BYTES)
        manifest = Manifest.model_validate_json(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Corrupt(f"{folder / MANIFEST} cannot be read ({error.strerror}); restore it") from error
    except ValidationError as error:
        raise Corrupt(f"{folder / MANIFEST} is not a manifest that blemish reads; restore it") from error
    if manifest.format not in _READ_FORMATS:
        raise Corrupt(
            f"{folder} has format {manifest.format}, but blemish reads up to {_NEWEST}; update it"
        )
    return manifest


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        FileNotFoundError: if it does not exist.
        OSError: if it is not a regular file, or cannot be read.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
