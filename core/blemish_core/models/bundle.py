# SPDX-License-Identifier: Apache-2.0
"""One model version on disk: a manifest and tensors, nothing that can execute.

::

    manifest.json         what it is, how it was made, how well it does, sha256 of each other file
    weights.safetensors   everything the detector needs, its backbone included
    openvino/             its network for OpenVINO: model.xml and .bin, in some int8.xml and .bin
    report/               how well it does, for people: nothing of it is loaded

Once published none of it changes. What came later lies beside it: calibrations (``calibration_log``), and
``evaluations/<job>/``, the reports of jobs that measured it.

Reading and writing the tensors is for ``loading``: this module loads nothing of torch, so that whoever only
looks at models starts in no time.
"""

import hashlib
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.calibration import Calibration
from blemish_core.evaluation.metrics import Metrics
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.files import atomic_write
from blemish_core.runtimes.card import RuntimeCard

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
REPORT = "report"
OPENVINO = "openvino"
FORMAT = 1


class TrainingSplit(BaseModel):
    """Which images were used for what."""

    model_config = ConfigDict(frozen=True)

    learned: int
    held_out: int
    method: str
    skipped: int = 0
    """Training images that could not be read."""


class Manifest(BaseModel):
    """The card of a model version."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    model: str
    version: int
    detector: str
    settings: Mapping[str, Any]
    input_size: int
    category: str
    dataset: str
    """The dataset's id."""
    dataset_snapshot: str
    created: datetime
    job: str
    seed: int
    split: TrainingSplit
    training: Mapping[str, str] = {}
    """What else there is to say of how it was made: steps, teacher, ..."""
    calibration: Calibration
    """What training left; the one in force may be a later one, see ``calibration_log``."""
    metrics: Metrics | None
    runtimes: Mapping[str, RuntimeCard] = {}
    """Those beside torch, by name; none in bundles of a blemish that knew torch alone."""
    libraries: Mapping[str, str]
    sha256: Mapping[str, str]
    """Of each other file of the bundle, in hex."""
    size_bytes: int

    @property
    def name(self) -> str:
        return f"models/{self.model}/versions/{self.version}"

    def calibration_under(self, runtime: str) -> Calibration:
        """What training left for ``runtime``, whose scores of the held-out images may not be torch's."""
        card = self.runtimes.get(runtime)
        if card is None or card.held_out is None:
            return self.calibration
        return Calibration.of(
            card.held_out.scores, card.held_out.map_maxima, self.calibration.target_false_reject_rate
        )


def libraries() -> dict[str, str]:
    """The versions that a model's figures depend on."""
    names = ("anomalib", "blemish", "numpy", "openvino", "pillow", "timm", "torch", "torchvision")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def sha256_below(folder: Path, part: str) -> dict[str, str]:
    """Return sha256 by name for all files of one folder of the bundle."""
    return {f"{part}/{file.name}": sha256(file) for file in sorted((folder / part).iterdir())}


def write_manifest(manifest: Manifest, folder: Path) -> None:
    atomic_write(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())


def read_manifest(folder: Path) -> Manifest:
    """Read a bundle's card.

    Raises:
        FileNotFoundError: if there is no bundle.
        Corrupt: if it is none that this version reads.
    """
    text = (folder / MANIFEST).read_bytes()
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise Corrupt(f"{folder / MANIFEST} is no manifest of this version of blemish") from error
    if manifest.format != FORMAT:
        raise Corrupt(f"{folder} has format {manifest.format}, but this blemish reads {FORMAT}")
    return manifest


def sha256(file: Path) -> str:
    """Of a file's content, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
