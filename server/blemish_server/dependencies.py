# SPDX-License-Identifier: Apache-2.0
"""Probes of Redis and Qdrant, and the health of the services that depend on them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from blemish_core.platform.errors import BlemishError, FailedPrecondition

_PROBE_EVERY_S = 2.0

log = structlog.get_logger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Dependency:
    """A process that the server calls, and the services that do not work without it."""

    name: str
    ping: Callable[[], None]
    """Raises Unavailable unless it answers, and FailedPrecondition if it cannot be used."""
    services: tuple[str, ...]
    warnings: Callable[[], tuple[str, ...]] = tuple
    """Returns what the last ping found to endanger data."""


@dataclass(frozen=True)
class DependencyState:
    """The result of the last probe of a dependency."""

    name: str
    available: bool
    detail: str
    """Reason if unavailable, else empty."""
    warnings: tuple[str, ...] = ()
    """Settings of the dependency that endanger data."""


class Dependencies:
    """The dependencies of the server, probed at regular intervals."""

    def __init__(self, dependencies: tuple[Dependency, ...], health: health_aio.HealthServicer) -> None:
        self._dependencies = dependencies
        self._health = health
        self._states: Mapping[str, DependencyState] = {}
        self.refusal = ""
        """Reason for which a dependency can never be used, if a probe found one."""

    @property
    def states(self) -> list[DependencyState]:
        """Results of the last probes."""
        return list(self._states.values())

    @property
    def all_available(self) -> bool:
        """True if the last probe of each dependency succeeded."""
        return all(self.is_available(dependency.name) for dependency in self._dependencies)

    @property
    def services(self) -> set[str]:
        """Services whose health follows a dependency."""
        return {service for dependency in self._dependencies for service in dependency.services}

    def is_available(self, name: str) -> bool:
        """Return whether the last probe of a dependency succeeded."""
        state = self._states.get(name)
        return state is not None and state.available

    async def run(self) -> None:
        """Probe all dependencies every two seconds until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(_PROBE_EVERY_S)

    async def probe(self) -> None:
        """Probe all dependencies, and set the health of the services that need them."""
        states = await asyncio.gather(*(self._ping(dependency) for dependency in self._dependencies))
        for dependency, state in zip(self._dependencies, states, strict=True):
            before = self._states.get(state.name)
            if before is None or before.available != state.available:
                report = log.info if state.available else log.warning
                report("dependency", name=state.name, available=state.available, detail=state.detail)
            for warning in set(state.warnings) - set(before.warnings if before else ()):
                log.warning("dependency endangers data", name=state.name, detail=warning)
            for service in dependency.services:
                await self._health.set(service, SERVING if state.available else NOT_SERVING)
        self._states = {state.name: state for state in states}

    async def _ping(self, dependency: Dependency) -> DependencyState:
        try:
            await asyncio.to_thread(dependency.ping)
        except FailedPrecondition as error:
            self.refusal = str(error)
            return DependencyState(dependency.name, False, str(error))
        except BlemishError as error:
            return DependencyState(dependency.name, False, str(error))
        return DependencyState(dependency.name, True, "", dependency.warnings())
