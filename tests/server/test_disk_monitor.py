# SPDX-License-Identifier: Apache-2.0
"""The state of the disk, as health and calls show it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from grpc_health.v1.health import aio as health_aio

from blemish_core.platform.disk import DiskSpace, StoreDisk
from blemish_core.platform.errors import DiskFull
from blemish_server.dependencies import NOT_SERVING, SERVING
from blemish_server.disk_monitor import DiskMonitor


@dataclass
class FakeHealth:
    """A health service that keeps the states it is given."""

    states: dict[str, Any] = field(default_factory=dict)

    async def set(self, service: str, status: Any) -> None:
        self.states[service] = status


@dataclass(frozen=True)
class FakeDisk(StoreDisk):
    """A disk whose space a test sets; None for a disk that cannot be read."""

    found: list[DiskSpace | None] = field(default_factory=list)

    def space(self) -> DiskSpace:
        space = self.found.pop(0)
        if space is None:
            raise OSError(5, "Input/output error")
        return space


async def test_health_and_calls_follow_the_space() -> None:
    health = FakeHealth()
    disk = FakeDisk(Path("/srv/store"), 100, [DiskSpace(200, 1000), DiskSpace(20, 1000), None])
    monitor = DiskMonitor(disk, cast(health_aio.HealthServicer, health))
    monitor.require_space()

    await monitor.probe()
    monitor.require_space()
    assert health.states == {"blemish.disk": SERVING}

    await monitor.probe()
    with pytest.raises(DiskFull, match="has 20 B free, less than the 100 B of BLEMISH_MIN_FREE_BYTES"):
        monitor.require_space()
    assert health.states == {"blemish.disk": NOT_SERVING}

    await monitor.probe()
    with pytest.raises(DiskFull, match=r"cannot be read \(Input/output error\); check"):
        monitor.require_space()
    assert monitor.space is None
