# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from tests.support.cli import Run, run_against
from tests.support.fake_server import picture


@pytest.fixture
def run(target: str) -> Run:
    """Return a function that runs the command line against the fake server."""
    return run_against(target)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    path.write_bytes(picture(64))
    return path
