# SPDX-License-Identifier: Apache-2.0
"""Retries of calls to a server that does not answer."""

from collections.abc import Iterator
from dataclasses import dataclass


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
