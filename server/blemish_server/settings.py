# SPDX-License-Identifier: Apache-2.0
"""What the server is told by the environment."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from blemish_core.settings import StackSettings
from blemish_server.scoring.batcher import BatchingPolicy


class ServerSettings(StackSettings):
    """The server's own settings, beside those of the stack."""

    listen: str = "localhost:50051"
    """Address to serve on, HOST:PORT; port 0 takes a free one."""

    metrics_listen: str = Field("", pattern=r"^(.+:\d+)?$")
    """Address on which Prometheus may read, HOST:PORT, by plain HTTP without a token; none by default."""

    access_file: Path | None = None
    """Who may call, and what, as ``blemish access`` writes it; without one everybody may do everything."""

    tls_certificate: Path | None = None
    """Certificate chain, PEM: with it and its key the server speaks TLS alone."""

    tls_key: Path | None = None
    """Its key, PEM, without a password."""

    import_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders below which ImportDataset may read, separated as PATH is; none by default."""

    max_message_bytes: int = Field(40 << 20, ge=1 << 20)
    """Largest message, either way."""

    max_queued: int = Field(64, ge=1)
    """An image with so many ahead of it at its model is refused."""

    max_waiting_bytes: int = Field(512 << 20, ge=1 << 20)
    """Encoded images held at once, all requests together; more are refused. A ninth is kept from a caller
    who takes all he can, for others."""

    max_batch_size: int = Field(8, ge=1)
    """Images scored in one forward pass on a GPU."""

    batch_wait_ms: float = Field(2.0, ge=0)
    """How long the first image of a batch waits for others, on a GPU."""

    cpu_lanes: int = Field(0, ge=0)
    """Images of one model scored at once on a CPU, each on its share of the cores; 0 takes one a core and
    one more, which computes while another waits for Python's lock. Fewer answer each image sooner, where
    many wait."""

    max_loaded_bytes: int = Field(4 << 30, ge=1 << 20)
    """Weights, banks and indexes of the models in memory; the least recently used makes room."""

    preload: bool = True
    """Load the models in production before health says SERVING, as far as ``max_loaded_bytes`` goes."""

    keep_frames: int = Field(100_000, ge=0)
    """Frames kept for search of each model version, at most; the oldest go first, labelled ones stay."""

    keep_frames_days: float = Field(90.0, gt=0)
    """How long they are kept."""

    grace_s: float = Field(10.0, ge=0)
    """How long requests may take to end when the server is told to stop."""

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise ValueError("BLEMISH_TLS_CERTIFICATE and BLEMISH_TLS_KEY go together; set both or neither")
        return self

    @property
    def lanes(self) -> int:
        """Of a model on a CPU."""
        return self.cpu_lanes or (os.cpu_count() or 1) + 1

    def batching(self, device: str) -> BatchingPolicy:
        """Return how images are grouped on ``device``."""
        if device == "cpu":
            return BatchingPolicy(
                max_batch_size=1,
                max_queued=self.max_queued,
                # The lane beyond the cores makes no frame's turn come sooner.
                max_ahead=max(1, self.lanes - 1),
                lanes=self.lanes,
            )
        return BatchingPolicy(
            self.max_batch_size, self.batch_wait_ms / 1000, self.max_queued, preparing=os.cpu_count() or 1
        )

    @field_validator("import_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).resolve() for part in value.split(os.pathsep) if part)
        return value
