# SPDX-License-Identifier: Apache-2.0
"""The real stack with low limits: Redis, Qdrant, a worker, the server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.ports import free_port
from tests.support.processes import wait_for_file


@dataclass(frozen=True)
class RunningStack:
    """A running stack and its import root."""

    address: str
    surfaces: Path
    """Folder of small datasets, below the import root."""
    data: Path
    metrics: str
    """HOST:PORT of the metrics."""


@contextmanager
def running_stack(
    home: Path, surfaces: Path, log: IO[bytes] | None = None, **settings: str
) -> Iterator[RunningStack]:
    """Run a stack below ``home``, with its log on standard error or in ``log``."""
    home.mkdir(parents=True, exist_ok=True)
    metrics = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "blemish_local", "up"),
            *("--data", str(home / "data"), "--listen", "127.0.0.1:0"),
            *("--address-file", str(home / "address"), "--import-root", str(surfaces)),
            "--no-console",
        ],
        env=os.environ
        | {
            # Low limits make their tests cheap.
            "BLEMISH_MAX_IMAGE_BYTES": str(2 << 20),
            "BLEMISH_MAX_MESSAGE_BYTES": str(3 << 20),
            "BLEMISH_METRICS_LISTEN": metrics,
            "HF_HUB_OFFLINE": "1",  # no test asks a hub for weights
        }
        | settings,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield RunningStack(wait_for_file(home / "address", process), surfaces, home / "data", metrics)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
