# SPDX-License-Identifier: Apache-2.0
"""What is done ahead of the first job, and that nothing depends on it."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers import export, warmup
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import RuntimeChoice


@pytest.fixture(autouse=True)
def _nothing_converted() -> Iterator[None]:
    openvino_runtime.forget()
    yield
    openvino_runtime.forget()


def workplace(folder: Path) -> JobContext:
    return Mock(spec=JobContext, weights=folder, device="cpu", runtime=RuntimeChoice())


def test_the_first_training_finds_its_network_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmup.load(workplace(tmp_path))
    monkeypatch.setattr(openvino_runtime, "_converted", Mock(side_effect=AssertionError("a second time")))
    detector = TrainablePatchCore(PatchCoreSettings())
    detector.load_pretrained(tmp_path)
    assert export.fast("cpu", RuntimeChoice(), detector.network, detector.input_size) is not None


def test_what_cannot_be_loaded_is_left_to_the_job_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export, "fast", Mock(side_effect=FailedPrecondition("OpenVINO cannot be loaded here"))
    )
    with capture_logs() as logs:
        warmup.load(workplace(tmp_path))
    assert [(one["log_level"], one["event"]) for one in logs] == [
        ("warning", "not loaded ahead of the first job")
    ]
    assert "OpenVINO cannot be loaded here" in logs[0]["error"]
