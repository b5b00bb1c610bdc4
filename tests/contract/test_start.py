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
        # As the server does with each training it is asked for.
        "from blemish_core.detectors.patchcore.settings import PatchCoreSettings; PatchCoreSettings()",
    ],
)
def test_what_takes_seconds_is_imported_where_it_is_used(script: str) -> None:
    imported = imported_by(script)
    assert "torch" in imported
    assert DEAR & imported == set()
