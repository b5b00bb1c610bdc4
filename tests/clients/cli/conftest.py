# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from tests.support.cli import Run, run_against
from tests.support.fake_server import picture

from blemish_client.cli import failures


@pytest.fixture(autouse=True)
def no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer the question whether an unreachable server uses TLS without a socket."""
    monkeypatch.setattr(failures, "answers_with_tls", lambda target: False)


@pytest.fixture
def run(target: str) -> Run:
    """Return a function that runs the command line against the fake server."""
    return run_against(target)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    path.write_bytes(picture(64))
    return path
