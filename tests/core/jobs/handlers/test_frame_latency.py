# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from blemish_core.detectors.common.embedding import FarPatches
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.jobs.handlers.frame_latency import measure_latencies
from blemish_core.platform.errors import JobCancelled
from blemish_core.platform.processor import cpu_name
from blemish_core.runtimes import openvino_runtime

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def detector() -> TrainablePatchCore:
    """Return a detector with random weights and a small bank."""
    torch.manual_seed(0)
    detector = TrainablePatchCore(PatchCoreSettings(backbone="efficientnet_lite0", scale=1.0, neighbors=1))
    with torch.inference_mode():
        (patches,) = detector.patches([detector.prepare(IMAGE)])
    detector.set_memory_bank(patches.features[:8])
    measured = detector.measure(patches)
    detector.fit_embeddings([measured], [FarPatches.of(patches.features, measured.distances)])
    return detector


def test_each_runtime_is_measured_on_one_thread(detector: TrainablePatchCore, tmp_path: Path) -> None:
    file = tmp_path / "model.xml"
    openvino_runtime.export(detector.network, detector.network_size, file)
    before = torch.get_num_threads(), detector.runtime
    torch_row, openvino_row = measure_latencies(detector, IMAGE, {"openvino": file}, "cpu")
    assert (torch_row.runtime, openvino_row.runtime) == ("torch", "openvino")
    for row in (torch_row, openvino_row):
        assert row.median_s > 0
        assert row.frames >= 5
        assert (row.device, row.threads, row.processor) == ("cpu", 1, cpu_name())
        assert (row.width, row.height) == (80, 48)
    assert (torch.get_num_threads(), detector.runtime) == before


def test_measurement_ends_when_the_job_is_cancelled(detector: TrainablePatchCore) -> None:
    threads = torch.get_num_threads()

    def cancelled() -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        measure_latencies(detector, IMAGE, {}, "cpu", cancelled)
    assert torch.get_num_threads() == threads
