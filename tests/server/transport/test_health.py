# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

from grpc_health.v1 import health_pb2

from blemish_server.transport.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Context:
    """A call's context that records the statuses sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    async def write(self, response: Any) -> None:
        self.sent.append(response.status)


async def test_watch_ends_with_not_serving_when_the_server_stops() -> None:
    stopping = asyncio.Event()
    health, context = Health(stopping), Context()
    await health.set("", SERVING)
    watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), context))  # type: ignore[arg-type]
    while not context.sent:
        await asyncio.sleep(0.001)
    await health.enter_graceful_shutdown()
    stopping.set()
    async with asyncio.timeout(10):
        await watch
    assert context.sent == [SERVING, NOT_SERVING]


async def test_cancelled_watch_receives_no_more_statuses() -> None:
    health, context = Health(asyncio.Event()), Context()
    await health.set("", SERVING)
    watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), context))  # type: ignore[arg-type]
    while not context.sent:
        await asyncio.sleep(0.001)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await health.set("", NOT_SERVING)
    assert context.sent == [SERVING]
