# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.patches import patch_features

from blemish_core.detectors.patchcore.network import halve
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.geometry import ANY_SIZE
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime


def test_two_by_two_features_become_their_mean_and_deviation() -> None:
    features = torch.tensor([[[[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [2.0, 2.0, 9.0]]]])
    mean, deviation = halve(features)[0]
    # An odd row or column makes patches of its own.
    torch.testing.assert_close(mean, torch.tensor([[2.0, 6.0], [2.0, 9.0]]))
    torch.testing.assert_close(deviation, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), rtol=0, atol=1.1e-3)


def test_chequered_and_even_patches_differ_in_deviation() -> None:
    chequered = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4)[None, None]
    even = torch.full_like(chequered, 0.5)
    (mean, deviation), (same, none) = halve(chequered)[0], halve(even)[0]
    torch.testing.assert_close(mean, same)
    assert deviation.min() > 0.49
    assert none.max() < 0.01


def test_openvino_cache_distinguishes_two_and_three_stages() -> None:
    """Both networks have the same weights, so only ``repr`` distinguishes them in the cache."""
    for fine, dimensions in ((False, 152), (True, 200), (False, 152)):
        detector = TrainablePatchCore(
            PatchCoreSettings(backbone="efficientnet_lite0", input_size=64, fine=fine)
        )
        detector.load_pretrained(Path("nowhere"))
        (features,) = OpenVinoRuntime.of(detector.network, (64, 64))(torch.zeros(1, 3, 64, 64))
        assert features.shape[1] == dimensions


@pytest.mark.parametrize("side", [64, 100, 107])
def test_openvino_gives_the_features_of_torch_at_any_input_size(side: int) -> None:
    detector = TrainablePatchCore(PatchCoreSettings(input_size=side))
    detector.load_pretrained(Path("nowhere"))
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    inputs = [detector.prepare(pixels), detector.prepare(np.full_like(pixels, 128))]
    with torch.inference_mode():
        features, grid = patch_features(detector, inputs)
        detector.run_on(OpenVinoRuntime.of(detector.network, (side, side)))
        theirs, same = patch_features(detector, inputs)
    rows = -(-side // 8)
    assert grid == same == (rows, rows)
    torch.testing.assert_close(theirs, features, rtol=1e-3, atol=1e-3)


def test_one_openvino_network_gives_the_features_of_torch_for_inputs_of_all_sizes() -> None:
    detector = TrainablePatchCore(PatchCoreSettings(scale=1.0))
    detector.load_pretrained(Path("nowhere"))
    random = np.random.default_rng(5)
    frames = [
        random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for height, width in ((64, 64), (64, 256), (144, 80), (320, 800))
    ]
    inputs = [detector.prepare(frame) for frame in frames]
    with torch.inference_mode():
        expected = detector.patches(inputs)
        detector.run_on(OpenVinoRuntime.of(detector.network, ANY_SIZE))
        found = detector.patches(inputs)
    for frame, one, other in zip(frames, expected, found, strict=True):
        assert one.grid == other.grid == (frame.shape[0] // 8, frame.shape[1] // 8)
        torch.testing.assert_close(other.features, one.features, rtol=1e-3, atol=1e-3)
