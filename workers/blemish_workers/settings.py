# SPDX-License-Identifier: Apache-2.0
"""What a worker is told by the environment."""

from pathlib import Path

from pydantic import Field

from blemish_core.settings import StackSettings


class WorkerSettings(StackSettings):
    """The worker's own settings, beside those of the stack."""

    queues: str = "train,embed"
    """What it listens to, by commas: ``train`` and ``embed`` (which evaluates as well)."""

    devices: str = ""
    """Several devices by commas, ``cuda:0,cuda:1``; empty takes ``device`` alone."""

    concurrency: int = Field(1, ge=1)
    """Jobs at once on each device; each takes it for itself."""

    max_job_seconds: float = Field(0, ge=0)
    """Time that one attempt at a job may take, whatever the job allows; 0 sets no limit."""

    max_job_bytes: int = Field(0, ge=0)
    """Memory that the process of a job may take, whatever the job allows; 0 sets no limit."""

    keep_jobs_days: float = Field(30, gt=0)
    """Records and logs of jobs that ended longer ago are removed."""

    keep_versions: int = Field(0, ge=0)
    """Newest versions of each model that are kept, beside the one in production, those that are pinned and
    those that a job works with; 0 keeps all."""

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

    @property
    def slots(self) -> list[str]:
        """The device of each place for a job."""
        devices = [device.strip() for device in self.devices.split(",") if device.strip()]
        return [device for device in devices or [self.device] for _ in range(self.concurrency)]
