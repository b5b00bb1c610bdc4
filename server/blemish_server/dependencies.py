# SPDX-License-Identifier: Apache-2.0
"""Looks after Redis and Qdrant, and tells health checks which services can work without them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from blemish_core.platform.errors import BlemishError

_LOOK_EVERY_S = 2.0

log = structlog.get_logger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Dependency:
    """Something the server talks to, and the services that stand still without it."""

    name: str
    ping: Callable[[], None]
    """Raises Unavailable unless it answers."""
    services: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What was seen of a dependency last."""

    name: str
    available: bool
    detail: str


class Dependencies:
    def __init__(self, watched: tuple[Dependency, ...], health: health_aio.HealthServicer) -> None:
        self._watched = watched
        self._health = health
        self._known: Mapping[str, Known] = {}

    @property
    def states(self) -> list[Known]:
        return list(self._known.values())

    @property
    def services(self) -> set[str]:
        """Those whose health follows what they depend on."""
        return {service for dependency in self._watched for service in dependency.services}

    async def run(self) -> None:
        """Look at all of them every two seconds until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """See who answers now; what depends on the others is NOT_SERVING."""
        seen = await asyncio.gather(*(self._see(dependency) for dependency in self._watched))
        for dependency, known in zip(self._watched, seen, strict=True):
            before = self._known.get(known.name)
            if before is None or before.available != known.available:
                tell = log.info if known.available else log.warning
                tell("dependency", name=known.name, available=known.available, detail=known.detail)
            for service in dependency.services:
                await self._health.set(service, SERVING if known.available else NOT_SERVING)
        self._known = {known.name: known for known in seen}

    async def _see(self, dependency: Dependency) -> Known:
        try:
            await asyncio.to_thread(dependency.ping)
        except BlemishError as error:
            return Known(dependency.name, False, str(error))
        return Known(dependency.name, True, "")
