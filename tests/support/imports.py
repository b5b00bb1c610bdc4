# SPDX-License-Identifier: Apache-2.0
"""The packages that a script imports, found in a fresh process."""

import subprocess
import sys

SLOW_WITH_ANOMALIB = {"anomalib", "lightning", "matplotlib", "pandas", "timm", "torchvision"}
"""Packages that come with anomalib's models and take seconds to import."""


def imported_by(script: str) -> set[str]:
    """Return the packages that ``script`` has imported when it ends."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", f"{script}\n{report}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(ran.stdout.splitlines()[-1].split())
