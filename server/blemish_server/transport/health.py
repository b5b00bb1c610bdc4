# SPDX-License-Identifier: Apache-2.0
"""gRPC's health service, with watches that end when the server stops."""

import asyncio
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

# Time for the last status, NOT_SERVING, to be sent.
_SEND_TIMEOUT_S = 0.2


class Health(health_aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """A health service whose streams end once ``stopping`` is set; gRPC's own would last until cut off."""

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        watching = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=_SEND_TIMEOUT_S)
        finally:
            stopping.cancel()
            watching.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
