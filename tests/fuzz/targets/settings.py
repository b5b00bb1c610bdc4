# SPDX-License-Identifier: Apache-2.0
"""Settings of the server and the workers from environment variables."""

import os
from unittest.mock import patch

from pydantic import ValidationError
from tests.fuzz.source import Source
from tests.fuzz.target import Target

from blemish_core.settings import StackSettings
from blemish_server.settings import ServerSettings
from blemish_workers.settings import WorkerSettings

_KINDS: tuple[type[StackSettings], ...] = (ServerSettings, WorkerSettings)
_VARIABLES = sorted(
    {f"BLEMISH_{name.upper()}" for kind in _KINDS for name in kind.model_fields}
    | {"REDIS_URL", "QDRANT_URL", "QDRANT_API_KEY", "QDRANT_GRPC_PORT"}
)


def run(data: bytes) -> None:
    source = Source(data)
    kind = source.choice(_KINDS)
    variables = {}
    while source:
        name = source.choice(_VARIABLES)
        variables[name] = source.text().replace("\0", "")
    with patch.dict(os.environ, variables, clear=True):
        settings = kind()
    settings.image_limits, settings.runtime_choice, settings.models  # noqa: B018
    repr(settings)
    if isinstance(settings, ServerSettings):
        settings.batching("cpu"), settings.batching("cuda")
    if isinstance(settings, WorkerSettings):
        assert settings.slots


def seeds() -> dict[str, bytes]:
    def variable(name: str, value: bytes) -> bytes:
        return bytes([_VARIABLES.index(name), len(value)]) + value

    return {
        "server": b"\0"
        + variable("BLEMISH_LISTEN", b"0.0.0.0:50051")
        + variable("BLEMISH_IMPORT_ROOTS", b"/data:/more")
        + variable("BLEMISH_MAX_QUEUED", b"7"),
        "worker": b"\1"
        + variable("BLEMISH_DEVICES", b"cuda:0,cuda:1")
        + variable("BLEMISH_CONCURRENCY", b"2"),
        "limits": b"\0"
        + variable("BLEMISH_MAX_IMAGE_PIXELS", b"1e6")
        + variable("BLEMISH_RUNTIME", b"torch"),
        "urls": b"\0" + variable("REDIS_URL", b"rediss://:pw@host/0") + variable("QDRANT_GRPC_PORT", b"1"),
    }


_WORDS = ("true", "inf", "nan", "1e9", "-1", "0", "cuda:1", "torch", "openvino", "rediss://", "/tmp")

TARGET = Target(run, seeds, words=_WORDS, expected=(ValidationError,), max_bytes=1024)
