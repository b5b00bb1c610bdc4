# SPDX-License-Identifier: Apache-2.0
"""What a script has imported by its end: in a process of its own, where nothing was before."""

import subprocess
import sys

OF_TORCHS_NETWORKS = {"anomalib", "lightning", "matplotlib", "pandas", "timm", "torchvision"}
"""What comes with the models of anomalib that detectors are made of: seconds."""


def imported_by(script: str) -> set[str]:
    """The packages that ``script`` has imported, whatever it prints."""
    told = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", f"{script}\n{told}"], check=True, capture_output=True, text=True, timeout=60
    )
    return set(ran.stdout.splitlines()[-1].split())
