# SPDX-License-Identifier: Apache-2.0
"""What jobs work with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from blemish_core.datasets import DatasetStore
from blemish_core.detectors.detector import Progress
from blemish_core.images import ImageLimits
from blemish_core.index import SearchIndex
from blemish_core.jobs import patience
from blemish_core.kept_frames import KeptFrames
from blemish_core.models import ModelStore
from blemish_core.runtimes.choice import RuntimeChoice

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Workplace:
    """What jobs work with."""

    datasets: DatasetStore
    models: ModelStore
    index: SearchIndex
    frames: KeptFrames
    weights: Path
    limits: ImageLimits
    device: str
    runtime: RuntimeChoice
    """What runs published models, and what a training asks; what learns does so in torch."""
    max_feature_bytes: int
    scratch: Path
    """For features that take more memory than that."""
    max_scratch_bytes: int
    checkpoints: Path
    """A folder for each job that can be gone on with by another attempt."""
    photographs: Path | None
    """Photographs of anything, for detectors that learn what is not the surface."""


def patiently(progress: Progress, call: Callable[[], _Answer]) -> _Answer:
    """Return what a call to Qdrant gives, waiting up to a minute for it to come back, and saying so."""
    return patience.patiently(call, partial(progress, "waiting for Qdrant", 0, 0, ""))
