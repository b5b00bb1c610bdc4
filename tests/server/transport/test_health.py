# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

from grpc_health.v1 import health_pb2

from blemish_server.transport.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Context:
    """Stands for a call's: keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    async def write(self, answer: Any) -> None:
        self.told.append(answer.status)


async def test_a_watcher_hears_that_nothing_is_served_and_its_stream_ends() -> None:
    ending = asyncio.Event()
    health, context = Health(ending), Context()
    await health.set("", SERVING)
    watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), context))  # type: ignore[arg-type]
    while not context.told:
        await asyncio.sleep(0.001)
    await health.enter_graceful_shutdown()
    ending.set()
    async with asyncio.timeout(10):
        await watch
    assert context.told == [SERVING, NOT_SERVING]


async def test_a_watcher_that_leaves_is_no_longer_told() -> None:
    health, context = Health(asyncio.Event()), Context()
    await health.set("", SERVING)
    watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), context))  # type: ignore[arg-type]
    while not context.told:
        await asyncio.sleep(0.001)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await health.set("", NOT_SERVING)
    assert context.told == [SERVING]
