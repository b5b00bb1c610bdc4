# SPDX-License-Identifier: Apache-2.0
"""A server or a worker that waits for its first model has not spent seconds on what models are made of."""

import subprocess
import sys

import pytest

DEAR = {"anomalib", "lightning", "matplotlib", "openvino", "pandas", "sklearn", "timm", "torchvision"}


@pytest.mark.parametrize(
    "script",
    [
        "import blemish_server.app",
        "import blemish_core.jobs.work",
        # As the server does with each training it is asked for.
        "from blemish_core.detectors.patchcore import PatchCoreSettings; PatchCoreSettings()",
    ],
)
def test_what_takes_seconds_is_imported_where_it_is_used(script: str) -> None:
    told = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", f"{script}\n{told}"], check=True, capture_output=True, text=True, timeout=60
    )
    assert "torch" in ran.stdout.split()
    assert DEAR & set(ran.stdout.split()) == set()
