# SPDX-License-Identifier: Apache-2.0
"""Start the parts in order, keep them running, and stop them in the reverse order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from blemish_local.stack import Given, Stack
from blemish_local.supervision.probes import NotYet
from blemish_local.supervision.service import PartFailed, Service

_GIVEN_ANSWERS_WITHIN_S = 10.0
_REMIND_AFTER_S = 15.0


@dataclass(frozen=True)
class Policy:
    first_delay_s: float = 0.5
    """Between a part's death and its next start; doubled with each death in a row."""
    longest_delay_s: float = 10.0
    healthy_after_s: float = 60.0
    """A part that was ready for this long starts counting its deaths afresh."""
    deaths_allowed: int = 5
    """With this many deaths in a row the whole stack gives up."""
    grace_s: float = 15.0
    """From asking a part to stop until it is killed, unless it asks for more itself."""

    def delay_s(self, deaths: int) -> float:
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** (deaths - 1))


class Supervisor:
    """Runs ``stack``.

    ``held`` is the descriptor that claims the data folder; ``say`` gets the calm lines and
    ``warn`` those that tell of something wrong.
    """

    def __init__(
        self,
        stack: Stack,
        held: int,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        policy: Policy | None = None,
    ) -> None:
        self._given = stack.given
        self._stages = [[Service(part, held) for part in stage] for stage in stack.stages]
        self._say = say
        self._warn = warn
        self._policy = policy or Policy()
        self._asked_to_stop = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Run until asked to stop (True) or until a part fails for good (False)."""
        living = asyncio.create_task(self._live(on_ready))
        asked = asyncio.create_task(self._asked_to_stop.wait())
        try:
            await asyncio.wait({living, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            living.cancel()
            asked.cancel()
            outcome, _ = await asyncio.gather(living, asked, return_exceptions=True)
            failure = _innermost(outcome)
            if isinstance(failure, PartFailed):
                self._warn(str(failure))
            self._say("stopping; Ctrl-C kills at once")
            await self._stop()
            self._say("stopped")
        if failure is None or isinstance(failure, PartFailed | asyncio.CancelledError):
            return not isinstance(failure, PartFailed)
        raise failure

    def ask_to_stop(self) -> None:
        """Stop in order; when asked again, kill whatever still runs."""
        if self._asked_to_stop.is_set():
            for stage in self._stages:
                for service in stage:
                    service.kill()
        self._asked_to_stop.set()

    async def _live(self, on_ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as kept:
            async with asyncio.TaskGroup() as asked:
                for given in self._given:
                    asked.create_task(self._wait_for(given))
            for stage in self._stages:
                async with asyncio.TaskGroup() as starting:
                    for service in stage:
                        starting.create_task(self._start(service))
                for service in stage:
                    kept.create_task(self._keep(service))
            on_ready()

    async def _wait_for(self, given: Given) -> None:
        reason = "it did not answer"
        try:
            async with asyncio.timeout(_GIVEN_ANSWERS_WITHIN_S):
                while True:
                    try:
                        await given.probe()
                        break
                    except NotYet as error:
                        reason = str(error)
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise PartFailed(
                f"{given.name} does not answer ({given.where}): {reason}.\n  cure: {given.cure}"
            ) from None
        self._say(f"{given.name:<8} answers  ({given.where})")

    async def _start(self, service: Service) -> None:
        part = service.part
        reminder = asyncio.get_running_loop().call_later(
            _REMIND_AFTER_S, self._say, f"{part.name:<8} is still starting; see {part.log}"
        )
        try:
            took_s = await service.start()
        finally:
            reminder.cancel()
        self._say(f"{part.name:<8} ready in {took_s:.1f} s  ({part.what})")

    async def _keep(self, service: Service) -> None:
        """Restart the service whenever it ends; raise ``PartFailed`` if that does not help."""
        name, deaths = service.part.name, 0
        while True:
            await service.ended()
            healthy = service.healthy_s >= self._policy.healthy_after_s
            deaths = 1 if healthy else deaths + 1
            if deaths >= self._policy.deaths_allowed:
                raise PartFailed(
                    service.report(
                        f"died {deaths} times, each time within "
                        f"{self._policy.healthy_after_s:.0f} s; {service.how_it_ended()}"
                    )
                )
            delay_s = self._policy.delay_s(deaths)
            self._warn(f"{name:<8} died: {service.how_it_ended()}; restart in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)
            try:
                took_s = await service.start()
            except PartFailed:
                # The log keeps the reason; a start that failed is one more death.
                continue
            self._warn(f"{name:<8} ready again in {took_s:.1f} s")

    async def _stop(self) -> None:
        for stage in reversed(self._stages):
            await asyncio.gather(*map(self._stop_one, stage))

    async def _stop_one(self, service: Service) -> None:
        grace_s = max(self._policy.grace_s, service.part.grace_s)
        if not await service.stop(grace_s):
            self._warn(f"{service.part.name:<8} did not stop within {grace_s:.0f} s and was killed")


def _innermost(outcome: BaseException | bool | None) -> BaseException | None:
    """Return what went wrong first, out of the task groups it was raised through."""
    failure = outcome if isinstance(outcome, BaseException) else None
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
