# SPDX-License-Identifier: Apache-2.0
"""A small PatchCore and the file of its exported network."""

from pathlib import Path

import pytest
import torch
from tests.support.patches import patch_features
from torch import Tensor

from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.runtimes import openvino_runtime


def inputs(count: int, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 3, 64, 64, generator=random))


@pytest.fixture(scope="module")
def detector() -> TrainablePatchCore:
    torch.manual_seed(3)
    settings = PatchCoreSettings(input_size=64)
    made = TrainablePatchCore(settings)
    with torch.inference_mode():
        patches, _ = patch_features(made, inputs(4, seed=1))
    made.set_memory_bank(patches.flatten(0, 1)[::3].clone())
    return made


@pytest.fixture(scope="module")
def exported(detector: TrainablePatchCore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "openvino" / "model.xml"
    openvino_runtime.export(detector.network, detector.network_size, file)
    return file
