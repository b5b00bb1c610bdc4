# SPDX-License-Identifier: Apache-2.0
"""What server and worker are both told by the environment."""

import sys
from pathlib import Path
from typing import Self, TypeVar

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from blemish_core.imaging.decode import ImageLimits
from blemish_core.runtimes.choice import Asked, RuntimeChoice

_LIMITS = ImageLimits()


class StackSettings(BaseSettings):
    """The store, Redis, Qdrant, and the limits on images."""

    model_config = SettingsConfigDict(env_prefix="BLEMISH_", frozen=True)

    store: Path = Path("blemish-data/store")
    """Folder of datasets, models and weights; the same for every process."""

    redis_url: str = Field(
        "redis://localhost:6379/0",
        validation_alias=AliasChoices("REDIS_URL", "BLEMISH_REDIS_URL", "redis_url"),
        repr=False,  # may hold a password
    )
    """Redis or Valkey: jobs, their queue and their progress."""

    qdrant_url: str = Field(
        "http://localhost:6333",
        validation_alias=AliasChoices("QDRANT_URL", "BLEMISH_QDRANT_URL", "qdrant_url"),
    )
    """Qdrant: the index of embeddings."""

    qdrant_grpc_port: int = Field(
        6334,
        validation_alias=AliasChoices("QDRANT_GRPC_PORT", "BLEMISH_QDRANT_GRPC_PORT", "qdrant_grpc_port"),
    )
    """Qdrant's gRPC port, on the host of ``qdrant_url``."""

    ready_file: Path | None = None
    """Written when the process is ready, for whoever started it."""

    qdrant_api_key: str = Field(
        "",
        validation_alias=AliasChoices("QDRANT_API_KEY", "BLEMISH_QDRANT_API_KEY", "qdrant_api_key"),
        repr=False,
    )
    """What Qdrant asks for, if it does."""

    device: str = "auto"
    """Where models run: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA where there is one."""

    runtime: Asked = "auto"
    """What runs their networks: ``torch``, or on the CPU ``openvino`` or ``openvino-int8``; ``auto`` takes
    OpenVINO on a CPU where the bundle has it, else torch."""

    openvino_threads: int = Field(0, ge=0)
    """Threads of one forward pass of OpenVINO; 0 takes one a core, shared out among the lanes."""

    max_image_pixels: int = _LIMITS.max_pixels
    """Largest image that is decoded, width times height."""

    max_image_bytes: int = _LIMITS.max_bytes
    """Largest encoded image."""

    @field_validator("store")
    @classmethod
    def _absolute(cls, store: Path) -> Path:
        return store.resolve()

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        _ = self.image_limits  # refuses more than its decoder can
        return self

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes)

    @property
    def runtime_choice(self) -> RuntimeChoice:
        return RuntimeChoice(self.runtime, self.openvino_threads)

    @property
    def datasets(self) -> Path:
        return self.store / "datasets"

    @property
    def frames(self) -> Path:
        return self.store / "frames"

    @property
    def models(self) -> Path:
        return self.store / "models"

    @property
    def weights(self) -> Path:
        return self.store / "weights"

    @property
    def checkpoints(self) -> Path:
        return self.store / "checkpoints"


Settings = TypeVar("Settings", bound=StackSettings)


def read(kind: type[Settings], process: str) -> Settings:
    """Read a process's settings from the environment, or end it with code 2 and a line for each fault."""
    try:
        return kind()
    except ValidationError as error:
        for fault in error.errors():
            name = "_".join(str(part) for part in fault["loc"]).upper()
            if name.lower() in kind.model_fields:
                name = f"BLEMISH_{name}"
            given = f" (it is {fault['input']!r})" if name else ""
            print(f"{process}: {name or 'settings'}: {fault['msg']}{given}", file=sys.stderr)
        sys.exit(2)


def resolve_device(device: str) -> str:
    """Return the torch device that ``device`` means on this machine."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
