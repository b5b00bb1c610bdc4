# SPDX-License-Identifier: Apache-2.0
"""Numbers, sizes and times as texts, as the command line writes them."""

from blemish_client.cli.output import ABSENT, clock, log_line, number, share, size, when

__all__ = ["ABSENT", "clock", "duration", "log_line", "number", "share", "size", "when"]


def duration(seconds: float) -> str:
    """Return a time such as 45 s, 12 min or 3 h 20 min."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
