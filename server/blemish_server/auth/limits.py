# SPDX-License-Identifier: Apache-2.0
"""Limits per caller: calls at once, requests and bytes per second.

Rates follow the generic cell rate algorithm (ITU-T I.371): a caller may use up to a second of its rate at
once. A call is refused while a limit is used up. A stream that is open is read more slowly instead, so that
flow control slows its sender and no message is lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field

from blemish_core.platform.errors import LimitExceeded

_BURST_S = 1.0
_BUSY_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
_ROUNDING_S = 1e-6


class CallerLimits(BaseModel):
    """The limits of a caller, as in the access file. None sets no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    streams: int | None = Field(None, ge=1)
    """Calls in progress at once, streams among them."""
    requests_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Calls and messages of streams per second."""
    bytes_per_second: int | None = Field(None, ge=1)
    """Bytes of requests per second."""
    queued_jobs: int | None = Field(None, ge=1)
    """Jobs that wait for a worker."""

    def __str__(self) -> str:
        """Return the limits that are set: ``streams=4 queued_jobs=2``."""
        return " ".join(f"{name}={value}" for name, value in self if value is not None)


NO_LIMITS = CallerLimits()


class CallerUsage:
    """The usage of one call in progress, against the limits of its caller."""

    def __init__(self, state: "_State", limits: CallerLimits, on_throttled: Callable[[str], None]) -> None:
        self._state = state
        self._limits = limits
        self._on_throttled = on_throttled

    def charge(self, message: Message) -> None:
        """Count the bytes of a request."""
        if self._limits.bytes_per_second is not None:
            self._state.bytes.charge(message.ByteSize(), self._limits.bytes_per_second)

    async def charge_in_stream(self, message: Message) -> None:
        """Count a message of a stream, and wait as long as a limit is used up."""
        limits, state = self._limits, self._state
        if limits.requests_per_second is not None:
            state.requests.charge(1, limits.requests_per_second)
        self.charge(message)
        for name, rate in state.rates():
            if getattr(limits, name) is not None and (wait_s := rate.wait_s()) > 0:
                self._on_throttled(name)
                await asyncio.sleep(wait_s)


class CallerLimiter:
    """The usage of all callers of this server."""

    def __init__(
        self,
        on_refused: Callable[[str], None] = lambda limit: None,
        on_throttled: Callable[[str], None] = lambda limit: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count from zero.

        Args:
            on_refused: called with the name of the limit for each refused call.
            on_throttled: called with the name of the limit for each message of a stream that waits.
            clock: returns the time in seconds.
        """
        self._on_refused = on_refused
        self._on_throttled = on_throttled
        self._clock = clock
        self._states: dict[str, _State] = {}

    @contextmanager
    def call(self, name: str, limits: CallerLimits) -> Iterator[CallerUsage | None]:
        """Count a call of a caller while it is in progress. Yield None for a caller without limits.

        Raises:
            LimitExceeded: if a limit of the caller is used up.
        """
        if limits == NO_LIMITS:
            yield None
            return
        state = self._state(name)
        self._check(name, limits, state)
        if limits.requests_per_second is not None:
            state.requests.charge(1, limits.requests_per_second)
        state.calls += 1
        try:
            yield CallerUsage(state, limits, self._on_throttled)
        finally:
            state.calls -= 1

    def refusal(self, name: str, limits: CallerLimits) -> LimitExceeded | None:
        """Return the error of a call that a caller would begin now; None if it may begin one."""
        if limits == NO_LIMITS:
            return None
        try:
            self._check(name, limits, self._state(name))
        except LimitExceeded as error:
            return error
        return None

    def refuse_job(self, name: str, limits: CallerLimits, queued: int) -> None:
        """Check the number of queued jobs of a caller before it adds one.

        Raises:
            LimitExceeded: if the caller has as many as it may have.
        """
        if limits.queued_jobs is not None and queued >= limits.queued_jobs:
            self._refuse(name, "queued_jobs", limits.queued_jobs, "wait until one has started", 30.0)

    def _state(self, name: str) -> "_State":
        state = self._states.get(name)
        if state is None:
            # Callers are those of the access file, so their number is bounded.
            state = self._states[name] = _State(_Rate(self._clock), _Rate(self._clock))
        return state

    def _check(self, name: str, limits: CallerLimits, state: "_State") -> None:
        if limits.streams is not None and state.calls >= limits.streams:
            self._refuse(name, "streams", limits.streams, "end one of its calls", _BUSY_RETRY_S)
        for limit, rate in state.rates():
            value = getattr(limits, limit)
            if value is not None and (wait_s := rate.wait_s()) > 0:
                self._refuse(name, limit, value, "send less", min(wait_s, _MAX_RETRY_S))

    def _refuse(self, name: str, limit: str, value: float, remedy: str, retry_after_s: float) -> None:
        self._on_refused(limit)
        raise LimitExceeded(
            f"{name} has reached its limit {limit} = {value:.12g}; {remedy}, or raise the limit with "
            "`blemish access limit`",
            retry_after_s=retry_after_s,
        )


class _Rate:
    """The use of a rate: the time at which all that was charged is paid."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._paid_s = 0.0

    def charge(self, amount: float, per_second: float) -> None:
        self._paid_s = max(self._paid_s, self._clock()) + amount / per_second

    def wait_s(self) -> float:
        """Return the time until the rate is below its limit again, in seconds; 0 if it is now."""
        wait_s = self._paid_s - self._clock() - _BURST_S
        return wait_s if wait_s > _ROUNDING_S else 0.0


@dataclass
class _State:
    """The usage of one caller."""

    requests: _Rate
    bytes: _Rate
    calls: int = 0

    def rates(self) -> tuple[tuple[str, _Rate], ...]:
        return ("requests_per_second", self.requests), ("bytes_per_second", self.bytes)
