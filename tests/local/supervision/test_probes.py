# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish_local.supervision.probes import NotReady, file_exists


async def test_worker_is_ready_once_its_file_exists(tmp_path: Path) -> None:
    ready = tmp_path / "worker.ready"
    with pytest.raises(NotReady, match=r"worker\.ready"):
        await file_exists(ready)

    ready.touch()

    await file_exists(ready)
