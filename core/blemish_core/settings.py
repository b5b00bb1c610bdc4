# SPDX-License-Identifier: Apache-2.0
"""Settings from environment variables that the server and the workers share."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Self, TypeVar

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.disk import StoreDisk
from blemish_core.platform.redis_address import DEFAULT_URL, RedisAddress
from blemish_core.runtimes.choice import Asked, RuntimeChoice

_LIMITS = ImageLimits()
_SECRETS = {
    f"{prefix}{name}"
    for name in ("REDIS_URL", "QDRANT_API_KEY", "QDRANT_PROXY")
    for prefix in ("", "BLEMISH_")
}
"""Variables that may hold a password, whose values no message repeats."""
_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""Devices of NVIDIA's driver, of WSL 2 and of AMD's driver."""


class StackSettings(BaseSettings):
    """Settings of the store, Redis, Qdrant, the runtime and the image limits."""

    model_config = SettingsConfigDict(env_prefix="BLEMISH_", frozen=True)

    store: Path = Path("blemish-data/store")
    """Folder of datasets, models, frames and weights. All processes must share it."""

    redis_url: str = Field(
        DEFAULT_URL,
        validation_alias=AliasChoices("REDIS_URL", "BLEMISH_REDIS_URL", "redis_url"),
        repr=False,  # may hold a password
    )
    """URL of Redis or Valkey, which holds jobs, their queue and their progress: ``redis://``, ``rediss://``
    with TLS, ``unix://``, or ``redis+sentinel://``."""

    qdrant_url: str = Field(
        "http://localhost:6333",
        validation_alias=AliasChoices("QDRANT_URL", "BLEMISH_QDRANT_URL", "qdrant_url"),
    )
    """URL of Qdrant, which holds the search indexes."""

    qdrant_grpc_port: int = Field(
        6334,
        validation_alias=AliasChoices("QDRANT_GRPC_PORT", "BLEMISH_QDRANT_GRPC_PORT", "qdrant_grpc_port"),
    )
    """Port of Qdrant's gRPC interface, on the host of the Qdrant URL."""

    ready_file: Path | None = None
    """File that the process creates when it is ready to serve and reaches Redis and Qdrant."""

    qdrant_api_key: str = Field(
        "",
        validation_alias=AliasChoices("QDRANT_API_KEY", "BLEMISH_QDRANT_API_KEY", "qdrant_api_key"),
        repr=False,
    )
    """API key for Qdrant, if it requires one."""

    qdrant_proxy: str = Field(
        "",
        pattern=r"^(http://[^/]+/?)?$",
        validation_alias=AliasChoices("QDRANT_PROXY", "BLEMISH_QDRANT_PROXY", "qdrant_proxy"),
        repr=False,  # may hold a password
    )
    """HTTP proxy for Qdrant, such as ``http://proxy:3128``. Without it, calls go directly to Qdrant, even
    if the environment names a proxy."""

    min_free_bytes: int = Field(1 << 30, ge=0)
    """Free space on the disk of the store, in bytes, below which it counts as full. Frames are then no
    longer kept and jobs are rejected, while scoring continues. The value 0 disables the check."""

    device: str = "auto"
    """Device that models run on: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for CUDA if it is available."""

    runtime: Asked = "auto"
    """Runtime of the networks: ``torch``, or on a CPU ``openvino`` or ``openvino-int8``. ``auto`` selects
    OpenVINO on a CPU if the model has an OpenVINO network, else torch."""

    openvino_threads: int = Field(0, ge=0)
    """Threads per OpenVINO forward pass. The value 0 divides the cores among the lanes, and gives all of
    them to a frame of the server that finds nothing else queued or computed."""

    max_image_pixels: int = _LIMITS.max_pixels
    """Largest accepted image, in pixels (width times height)."""

    max_image_bytes: int = _LIMITS.max_bytes
    """Largest accepted image file, in bytes."""

    @field_validator("redis_url")
    @classmethod
    def _supported(cls, url: str) -> str:
        RedisAddress.parse(url)
        return url

    @field_validator("store")
    @classmethod
    def _absolute(cls, store: Path) -> Path:
        return store.resolve()

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        _ = self.image_limits  # rejects limits beyond those of the decoder
        return self

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes)

    @property
    def runtime_choice(self) -> RuntimeChoice:
        return RuntimeChoice(self.runtime, self.openvino_threads)

    @property
    def disk(self) -> StoreDisk:
        return StoreDisk(self.store, self.min_free_bytes)

    @property
    def datasets(self) -> Path:
        return self.store / "datasets"

    @property
    def audit(self) -> Path:
        return self.store / "audit"

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

    @property
    def rates(self) -> Path:
        return self.store / "rates"


Settings = TypeVar("Settings", bound=StackSettings)


def read_settings(kind: type[Settings], process: str) -> Settings:
    """Read settings from the environment; on invalid ones, print one line each and exit with code 2."""
    try:
        return kind()
    except ValidationError as error:
        for fault in error.errors():
            name = "_".join(str(part) for part in fault["loc"]).upper()
            if name.lower() in kind.model_fields:
                name = f"BLEMISH_{name}"
            value = f" (got {fault['input']!r})" if name and name not in _SECRETS else ""
            print(f"{process}: {name or 'settings'}: {fault['msg']}{value}", file=sys.stderr)
        sys.exit(2)


def resolve_device(device: str) -> str:
    """Return the torch device for a ``device`` setting, with ``auto`` resolved for this machine."""
    if device != "auto":
        return device
    # Importing torch takes seconds and hundreds of megabytes, which a machine without a GPU need not spend.
    if not any(path.exists() for path in _GPU_DEVICES) or find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
