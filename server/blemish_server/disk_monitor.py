# SPDX-License-Identifier: Apache-2.0
"""The state of the store's disk, which health, metrics and GetServerInfo show.

A full disk stops no scoring. Frames are no longer kept and new jobs are rejected, so that there is space
for what cannot wait: the audit log, calibrations, labels and the records of jobs.
"""

import asyncio

import structlog
from grpc_health.v1.health import aio as health_aio

from blemish_core.platform.disk import DiskSpace, StoreDisk
from blemish_core.platform.errors import DiskFull
from blemish_server.dependencies import NOT_SERVING, SERVING

SERVICE = "blemish.disk"
"""Name in the health service. It is NOT_SERVING while there is not enough space."""

_PROBE_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class DiskMonitor:
    """The space on the disk of the store, read at regular intervals."""

    def __init__(self, disk: StoreDisk, health: health_aio.HealthServicer) -> None:
        self._disk = disk
        self._health = health
        self.space: DiskSpace | None = None
        """Space at the last probe; None if it could not be read."""
        self.shortage = ""
        """Reason why nothing is written that can wait, with the remedy; empty if there is enough space."""

    @property
    def min_free_bytes(self) -> int:
        """Space below which the disk counts as full."""
        return self._disk.min_free_bytes

    def require_space(self) -> None:
        """Check that the last probe found enough space.

        Raises:
            DiskFull: if it did not.
        """
        if self.shortage:
            raise DiskFull(self.shortage)

    async def run(self) -> None:
        """Probe every two seconds until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(_PROBE_EVERY_S)

    async def probe(self) -> None:
        """Read the space, and report it to the health service and, if it changed, to the log."""
        before = self.shortage
        try:
            self.space = await asyncio.to_thread(self._disk.space)
            self.shortage = self._disk.shortage(self.space)
        except OSError as error:
            self.space = None
            self.shortage = (
                f"the disk that holds {self._disk.folder} cannot be read ({error.strerror}); check that it "
                "is mounted"
            )
        if bool(before) != bool(self.shortage):
            report = log.warning if self.shortage else log.info
            report("disk", has_space=not self.shortage, detail=self.shortage)
        await self._health.set(SERVICE, NOT_SERVING if self.shortage else SERVING)
