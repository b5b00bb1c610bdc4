# SPDX-License-Identifier: Apache-2.0
"""The time that a frame takes by each runtime of a version, measured before it is published."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from blemish_core.detectors.base import Detector, Image, Runtime, running_on
from blemish_core.platform.processor import cpu_name
from blemish_core.runtimes.card import FrameLatency
from blemish_core.runtimes.choice import TORCH
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

_WARM_UP = 2
_MEASURED = 5
_THREADS = 1


def measure_latencies(
    detector: Detector,
    image: Image,
    networks: Mapping[str, Path],
    device: str,
    keep_alive: Callable[[], None] = lambda: None,
) -> tuple[FrameLatency, ...]:
    """Return the time from the pixels of a frame to its prediction, by torch and by each exported network.

    On a CPU, one thread computes, so that the figures of machines can be compared. OpenVINO's networks run
    on a CPU only, so a training on a GPU measures torch alone.

    Args:
        detector: detector whose torch network has its weights.
        image: frame to score.
        networks: exported networks by the names of their runtimes.
        device: device of the detector.
        keep_alive: called before each frame; it may raise to end the measurement.
    """
    kind = torch.device(device).type
    with one_thread():
        runtimes: dict[str, Runtime] = {TORCH: detector.runtime}
        if kind == "cpu":
            runtimes |= {
                name: OpenVinoRuntime(file, name=name, threads=_THREADS) for name, file in networks.items()
            }
        return tuple(
            _measure(detector, image, runtime, device, keep_alive) for runtime in runtimes.values()
        )


def _measure(
    detector: Detector, image: Image, runtime: Runtime, device: str, keep_alive: Callable[[], None]
) -> FrameLatency:
    took: list[float] = []
    with running_on(detector, runtime):
        for _ in range(_WARM_UP + _MEASURED):
            keep_alive()
            began = time.perf_counter()
            detector.predict([detector.prepare(image)])  # on the CPU, so that a GPU has finished
            took.append(time.perf_counter() - began)
    height, width = image.shape[:2]
    is_cpu = torch.device(device).type == "cpu"
    return FrameLatency(
        runtime=runtime.name,
        device=device,
        processor=cpu_name() if is_cpu else torch.cuda.get_device_name(device),
        threads=_THREADS if is_cpu else 0,
        median_s=median(took[_WARM_UP:]),
        frames=_MEASURED,
        width=width,
        height=height,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
