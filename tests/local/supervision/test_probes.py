# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish_local.supervision.probes import NotYet, file_exists


async def test_a_worker_is_ready_when_its_file_is_there(tmp_path: Path) -> None:
    ready = tmp_path / "worker.ready"
    with pytest.raises(NotYet, match=r"worker\.ready"):
        await file_exists(ready)

    ready.touch()

    await file_exists(ready)
