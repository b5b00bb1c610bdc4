# SPDX-License-Identifier: Apache-2.0
"""The warm-up prepares the first training, and its failure has no other effect than a log event."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from structlog.testing import capture_logs
from tests.support.job_context import make_job_context

from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.jobs.handlers.warmup import warm_up
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import RuntimeChoice


@pytest.fixture(autouse=True)
def no_converted_network() -> Iterator[None]:
    openvino_runtime.CONVERSIONS.clear()
    yield
    openvino_runtime.CONVERSIONS.clear()


def test_first_training_finds_its_network_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_up(make_job_context(tmp_path))
    monkeypatch.setattr(torch.export, "export", Mock(side_effect=AssertionError("converted a second time")))
    detector = TrainablePatchCore(PatchCoreSettings(scale=1.0))
    detector.load_pretrained(tmp_path)
    runtime = faster_runtime("cpu", RuntimeChoice(), detector.network, detector.network_size)
    assert runtime is not None


def test_failed_warm_up_is_only_logged(tmp_path: Path) -> None:
    context = replace(make_job_context(tmp_path), device="not a device")
    with capture_logs() as logs:
        warm_up(context)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("warning", "warm-up failed")]
    assert "not a device" in logs[0]["error"]
