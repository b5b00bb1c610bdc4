# SPDX-License-Identifier: Apache-2.0
"""gRPC's health service, whose watchers do not hold up the end of the server."""

import asyncio
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

# For the last that a watcher is told, that nothing is served any more.
_TOLD_WITHIN_S = 0.2


class Health(health_aio.HealthServicer):  # type: ignore[misc]  # it comes without types
    """Ends its streams when the server is ``ending``: gRPC's own last until they are cut."""

    def __init__(self, ending: asyncio.Event) -> None:
        super().__init__()
        self._ending = ending

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        watching = asyncio.create_task(super().Watch(request, context))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=_TOLD_WITHIN_S)
        finally:
            ending.cancel()
            watching.cancel()
            await asyncio.gather(watching, ending, return_exceptions=True)
