# SPDX-License-Identifier: Apache-2.0
"""The name of the machine's processor."""

import platform
import re
from pathlib import Path

_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """Return the name of the CPU as Linux gives it, or the architecture where it gives none."""
    try:
        found = _NAME.search(_INFO.read_text(errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
