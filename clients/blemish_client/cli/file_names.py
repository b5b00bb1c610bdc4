# SPDX-License-Identifier: Apache-2.0
"""Names of files that a command writes: cameras and times that every file system takes."""

import re
from datetime import UTC, datetime

_MAX_BYTES = 64  # names have at most 255, and also hold a time and an item


def file_name_part(text: str, default: str) -> str:
    """Return a text as a part of a file's name, or the default if nothing of it can be used."""
    safe = re.sub(r"[^\w.-]+", "-", text).encode()[:_MAX_BYTES].decode(errors="ignore")
    return safe.strip("-.") or default


def file_time(time: datetime) -> str:
    """Return a time in UTC to the millisecond, without the colons that some file systems refuse."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03}Z"
