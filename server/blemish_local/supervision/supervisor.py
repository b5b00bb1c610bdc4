# SPDX-License-Identifier: Apache-2.0
"""Start the services in order, restart them when they exit, and stop them in reverse order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from blemish_local.stack import ExternalService, Stack
from blemish_local.supervision.probes import NotReady
from blemish_local.supervision.service import ServiceFailed, ServiceProcess

_REMIND_AFTER_S = 15.0


@dataclass(frozen=True)
class RestartPolicy:
    """The delays and limits of starts, restarts and stops."""

    first_delay_s: float = 0.5
    """Delay before the first restart; doubled with each consecutive exit."""
    longest_delay_s: float = 10.0
    """Upper bound of the delay."""
    healthy_after_s: float = 60.0
    """Time for which a service must be ready before its count of exits starts again at 1."""
    deaths_allowed: int = 5
    """Number of consecutive exits at which the whole stack stops."""
    external_within_s: float = 10.0
    """Time within which an external service must answer."""
    grace_s: float = 15.0
    """Time from the request to stop a service until it is killed, unless its own is longer."""

    def delay_s(self, deaths: int) -> float:
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** (deaths - 1))


class Supervisor:
    """The owner of a stack's processes.

    The descriptor ``held`` claims the data folder. ``report`` receives progress, and ``warn`` failures.
    """

    def __init__(
        self,
        stack: Stack,
        held: int,
        report: Callable[[str], None],
        warn: Callable[[str], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        self._external = stack.external
        self._stages = [[ServiceProcess(spec, held) for spec in stage] for stage in stack.stages]
        self._report = report
        self._warn = warn
        self._policy = policy or RestartPolicy()
        self._stop_requested = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Run until a request to stop (True) or a permanent failure of a service (False)."""
        running = asyncio.create_task(self._run_services(on_ready))
        stopping = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            running.cancel()
            stopping.cancel()
            outcome, _ = await asyncio.gather(running, stopping, return_exceptions=True)
            failure = _innermost(outcome)
            if isinstance(failure, ServiceFailed):
                self._warn(str(failure))
            self._report("stopping; press Ctrl-C again to kill")
            await self._stop()
            self._report("stopped")
        if failure is None or isinstance(failure, ServiceFailed | asyncio.CancelledError):
            return not isinstance(failure, ServiceFailed)
        raise failure

    def request_stop(self) -> None:
        """Stop in order; at the second request, kill all remaining processes."""
        if self._stop_requested.is_set():
            for stage in self._stages:
                for service in stage:
                    service.kill()
        self._stop_requested.set()

    async def _run_services(self, on_ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as supervised:
            async with asyncio.TaskGroup() as probing:
                for external in self._external:
                    probing.create_task(self._wait_for(external))
            for stage in self._stages:
                async with asyncio.TaskGroup() as starting:
                    starts = {service: starting.create_task(self._start(service)) for service in stage}
                for service, start in starts.items():
                    if start.result():
                        supervised.create_task(self._restart_on_exit(service))
            on_ready()

    async def _wait_for(self, external: ExternalService) -> None:
        reason = "it did not answer"
        try:
            async with asyncio.timeout(self._policy.external_within_s):
                while True:
                    try:
                        await external.probe()
                        break
                    except NotReady as error:
                        reason = str(error)
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise ServiceFailed(
                f"{external.name} does not answer ({external.source}): {reason}.\n"
                f"  remedy: {external.remedy}"
            ) from None
        self._report(f"{external.name:<8} answers  ({external.source})")

    async def _start(self, service: ServiceProcess) -> bool:
        """Start a service, and return False if it is an optional one that did not start.

        Raises:
            ServiceFailed: if it did not start, and the stack needs it.
        """
        spec = service.spec
        reminder = asyncio.get_running_loop().call_later(
            _REMIND_AFTER_S, self._report, f"{spec.name:<8} is still starting; see {spec.log}"
        )
        try:
            took_s = await service.start()
        except ServiceFailed as failure:
            if not spec.is_optional:
                raise
            self._warn(f"{failure}\n  the other services go on without it")
            return False
        finally:
            reminder.cancel()
        self._report(f"{spec.name:<8} ready in {took_s:.1f} s  ({spec.description})")
        return True

    async def _restart_on_exit(self, service: ServiceProcess) -> None:
        """Restart the service whenever it exits.

        Raises:
            ServiceFailed: after too many consecutive exits of a service that the stack needs.
        """
        name, deaths = service.spec.name, 0
        while True:
            await service.ended()
            healthy = service.healthy_s >= self._policy.healthy_after_s
            deaths = 1 if healthy else deaths + 1
            if deaths >= self._policy.deaths_allowed:
                failure = service.report(
                    f"died {deaths} times, each time within "
                    f"{self._policy.healthy_after_s:.0f} s; {service.exit_status()}"
                )
                if not service.spec.is_optional:
                    raise ServiceFailed(failure)
                self._warn(f"{failure}\n  the other services go on without it")
                return
            delay_s = self._policy.delay_s(deaths)
            self._warn(f"{name:<8} died: {service.exit_status()}; restart in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)
            try:
                took_s = await service.start()
            except ServiceFailed:
                # The log contains the reason. A failed start counts as another exit.
                continue
            self._warn(f"{name:<8} ready again in {took_s:.1f} s")

    async def _stop(self) -> None:
        for stage in reversed(self._stages):
            await asyncio.gather(*map(self._stop_service, stage))

    async def _stop_service(self, service: ServiceProcess) -> None:
        grace_s = max(self._policy.grace_s, service.spec.grace_s)
        if not await service.stop(grace_s):
            self._warn(f"{service.spec.name:<8} did not stop within {grace_s:.0f} s and was killed")


def _innermost(outcome: BaseException | bool | None) -> BaseException | None:
    """Return the first exception inside the groups of the task groups."""
    failure = outcome if isinstance(outcome, BaseException) else None
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
