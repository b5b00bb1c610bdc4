# SPDX-License-Identifier: Apache-2.0
"""Settings of the server and their validation."""

import os
from pathlib import Path

import pytest

from blemish_core.settings import read_settings
from blemish_server.scoring.batcher import BatchingPolicy
from blemish_server.settings import ServerSettings


def test_import_roots_are_separated_as_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLEMISH_IMPORT_ROOTS", os.pathsep.join([str(tmp_path), "relative", ""]))
    assert ServerSettings().import_roots == (tmp_path, Path("relative").resolve())


def test_redis_and_qdrant_use_their_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@redis:6379/1")
    monkeypatch.setenv("QDRANT_URL", "http://qdrant:6333")
    monkeypatch.setenv("QDRANT_GRPC_PORT", "7000")
    settings = ServerSettings()
    assert settings.redis_url == "redis://:secret@redis:6379/1"
    assert (settings.qdrant_url, settings.qdrant_grpc_port) == ("http://qdrant:6333", 7000)
    assert "secret" not in repr(settings)


def test_cpu_uses_lanes_and_gpu_uses_batches() -> None:
    settings = ServerSettings(cpu_lanes=3, max_batch_size=4, batch_wait_ms=5, max_queued=7)
    assert settings.batching("cpu") == BatchingPolicy(max_batch_size=1, max_queued=7, max_ahead=2, lanes=3)
    assert settings.batching("cuda:1") == BatchingPolicy(4, 0.005, 7, preparers=os.cpu_count() or 1)
    assert ServerSettings().batching("cpu").lanes == (os.cpu_count() or 1) + 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "BLEMISH_MAX_QUEUED",
            "0",
            "BLEMISH_MAX_QUEUED: Input should be greater than or equal to 1 (got '0')",
        ),
        ("QDRANT_GRPC_PORT", "x", "QDRANT_GRPC_PORT: Input should be a valid integer"),
        ("BLEMISH_MAX_IMAGE_PIXELS", "999999999", "lower BLEMISH_MAX_IMAGE_PIXELS"),
    ],
)
def test_invalid_setting_prints_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as exit_info:
        read_settings(ServerSettings, "blemish-server")
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("blemish-server: ")
