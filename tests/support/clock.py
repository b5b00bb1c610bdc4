# SPDX-License-Identifier: Apache-2.0
"""A monotonic clock that a test sets."""


class FakeClock:
    """A replacement for ``time.monotonic`` that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s
