# SPDX-License-Identifier: Apache-2.0
"""Numbers, sizes and times as texts."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

ABSENT = "–"  # noqa: RUF001 - the sign for an absent figure


def number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f} %"


def size(size_bytes: int) -> str:
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def when(time: Timestamp) -> str:
    """Return a local time to the second, or a sign for an absent one."""
    if not time.seconds:
        return ABSENT
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a time such as 45 s, 12 min or 3 h 20 min."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
