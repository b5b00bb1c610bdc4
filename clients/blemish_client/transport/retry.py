# SPDX-License-Identifier: Apache-2.0
"""Retries of calls to a server that does not answer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from blemish_client.errors import Unavailable


@dataclass(frozen=True)
class RetryPolicy:
    """The pauses between retries and the time after which a client gives up."""

    first_pause_s: float = 0.25
    """Pause before the first retry, in seconds. Each further pause is twice as long."""
    longest_pause_s: float = 4.0
    """Upper bound of a pause, in seconds."""
    call_s: float = 5.0
    """Time for the retries of a call that is safe to repeat, from its first failure, in seconds."""
    watch_s: float = 60.0
    """Time for reconnecting a job watch or a stream, from its failure, in seconds. The default covers a
    restart of the server."""

    def pauses_s(self) -> Iterator[float]:
        """Yield the pauses before each retry, in seconds, without end."""
        pause = self.first_pause_s
        while True:
            yield pause
            pause = min(self.longest_pause_s, pause * 2)


class CallRetries:
    """The retries of one call that is safe to repeat."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._pauses_s = policy.pauses_s()
        self._end: float | None = None

    def pause_s(self, failure: Unavailable) -> float:
        """Return the time until the next attempt; raise the failure if the time for retries has passed."""
        pause_s = max(next(self._pauses_s), failure.retry_after_s or 0.0)
        # Count from the first failure. A silent link takes longer to fail than all retries.
        self._end = self._end or time.monotonic() + self._policy.call_s
        if time.monotonic() + pause_s > self._end:
            raise failure
        return pause_s
