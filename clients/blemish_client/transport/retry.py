# SPDX-License-Identifier: Apache-2.0
"""How long, and how often, a call is tried again while nobody answers."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    first_pause_s: float = 0.25
    """Before the first retry; doubled with each further one."""
    longest_pause_s: float = 4.0
    call_s: float = 5.0
    """For how long in all a call that may safely be repeated is repeated."""
    watch_s: float = 60.0
    """For how long a watch that was cut looks for the server: time enough for its restart."""

    def pauses_s(self) -> Iterator[float]:
        pause = self.first_pause_s
        while True:
            yield pause
            pause = min(self.longest_pause_s, pause * 2)
