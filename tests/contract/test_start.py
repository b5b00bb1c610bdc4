# SPDX-License-Identifier: Apache-2.0
"""A server or a worker that waits for its first model has not spent seconds on what models are made of."""

import pytest
from tests.support.imports import OF_TORCHS_NETWORKS, imported_by

DEAR = OF_TORCHS_NETWORKS | {"openvino", "sklearn"}


@pytest.mark.parametrize(
    "script",
    [
        "import blemish_server.wiring",
        "import blemish_core.jobs.handlers.train",
        # The server does this for each training request.
        "from blemish_core.detectors.patchcore.settings import PatchCoreSettings; PatchCoreSettings()",
    ],
)
def test_slow_packages_are_imported_only_where_used(script: str) -> None:
    imported = imported_by(script)
    assert "torch" in imported
    assert DEAR & imported == set()
