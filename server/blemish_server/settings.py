# SPDX-License-Identifier: Apache-2.0
"""What the server is told by the environment."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from blemish_core.settings import StackSettings


class ServerSettings(StackSettings):
    """The server's own settings, beside those of the stack."""

    listen: str = "localhost:50051"
    """Address to serve on, HOST:PORT; port 0 takes a free one."""

    import_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders below which ImportDataset may read, separated as PATH is; none by default."""

    max_message_bytes: int = Field(40 << 20, ge=1 << 20)
    """Largest message, either way."""

    max_queued: int = Field(64, ge=1)
    """Images that may wait for one model; more are refused."""

    max_waiting_bytes: int = Field(512 << 20, ge=1 << 20)
    """Encoded images held at once, all requests together; more are refused."""

    max_batch_size: int = Field(8, ge=1)
    """Images scored in one forward pass."""

    batch_wait_ms: float = Field(2.0, ge=0)
    """How long the first image of a batch waits for others."""

    max_loaded_models: int = Field(8, ge=1)
    """Models kept in memory; the least recently used makes room."""

    grace_s: float = Field(10.0, ge=0)
    """How long requests may take to end when the server is told to stop."""

    @field_validator("import_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).resolve() for part in value.split(os.pathsep) if part)
        return value
