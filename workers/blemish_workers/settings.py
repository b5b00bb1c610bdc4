# SPDX-License-Identifier: Apache-2.0
"""What a worker is told by the environment."""

from pathlib import Path

from pydantic import Field

from blemish_core.settings import StackSettings


class WorkerSettings(StackSettings):
    """The worker's own settings, beside those of the stack."""

    queues: str = "train,embed"
    """What it listens to, by commas: ``train`` and ``embed`` (which evaluates as well)."""

    concurrency: int = Field(1, ge=1)
    """Jobs at once; each takes the device for itself."""

    max_feature_bytes: int = Field(4 << 30, ge=1 << 20)
    """Memory that the features of one training may take; beyond it they go to a file in ``scratch``."""

    scratch: Path | None = None
    """Folder for that file, on a disk and not in memory; the store's own ``scratch`` without it. The file
    has no name and is gone with the process."""

    max_scratch_bytes: int = Field(64 << 30, ge=0)
    """Disk that the features of one training may take; a training that needs more is refused."""

    photographs: Path | None = None
    """Folder of photographs of anything, from which EfficientAD learns what is not the surface; without it
    those that come with installed packages serve."""

    ready_file: Path | None = None
    """Written when the worker listens, for whoever started it."""
