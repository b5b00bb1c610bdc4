# SPDX-License-Identifier: Apache-2.0
"""The worker's settings, read from the environment."""

from pathlib import Path

from pydantic import Field

from blemish_core.settings import StackSettings


class WorkerSettings(StackSettings):
    """The worker's settings in addition to those that all processes share."""

    queues: str = "train,embed"
    """Queues to consume, separated by commas: ``train``, and ``embed`` which also carries evaluations."""

    devices: str = ""
    """Devices to run jobs on, separated by commas, such as ``cuda:0,cuda:1``; empty means ``device``."""

    concurrency: int = Field(1, ge=1)
    """Number of jobs that each device runs at the same time."""

    max_job_seconds: float = Field(0, ge=0)
    """Maximum run time of one attempt, even if the job allows more; 0 means no limit."""

    max_job_bytes: int = Field(0, ge=0)
    """Maximum memory of a job's process in bytes, even if the job allows more; 0 means no limit."""

    keep_jobs_days: float = Field(30, gt=0)
    """Days after which the record and log of an ended job are deleted."""

    keep_versions: int = Field(0, ge=0)
    """Number of newest versions to keep of each model; 0 keeps all. Versions that are pinned, in production
    or used by a job are always kept."""

    max_feature_bytes: int = Field(4 << 30, ge=1 << 20)
    """Memory for the features of one training in bytes. A training on few images keeps all of them and is
    rejected if they need more. A training on many images keeps a sample."""

    measure_rates: bool = True
    """Measure the speed of each device when a worker is first idle, so that the cost of a training is known
    before it starts. It takes some seconds, once for each version of the libraries."""

    photographs: Path | None = None
    """Folder of unrelated photographs that EfficientAD trains on; defaults to photographs from installed
    packages."""

    @property
    def slots(self) -> list[str]:
        """Device of each slot."""
        devices = [device.strip() for device in self.devices.split(",") if device.strip()]
        return [device for device in devices or [self.device] for _ in range(self.concurrency)]
