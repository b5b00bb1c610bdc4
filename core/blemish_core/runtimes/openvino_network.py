# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: runs a detector's network on a CPU several times faster than torch.

A training exports the network as IR: an XML graph of OpenVINO's own operations and a file of weights.
Reading IR executes no code. An unknown operation is an error, and extensions are loaded only by explicit
API calls, which this module does not make.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish_core.platform.errors import Corrupt
from blemish_core.platform.threads import has_all_cores
from blemish_core.runtimes.openvino_import import openvino

NAME = "openvino"

Floats = NDArray[np.float32]


class OpenVinoNetwork:
    """A network on the CPU. Calls are thread-safe, and as many run concurrently as there are lanes.

    With several lanes, a call inside ``threads.all_cores`` takes all cores. It has a compiled network of
    its own, because OpenVINO fixes the threads of a pass when it compiles. This adds scratch memory.
    """

    def __init__(self, file: Path, *, name: str = NAME, threads: int = 0, lanes: int = 1) -> None:
        """Load the IR in ``file``.

        Args:
            file: XML file, next to its weights.
            name: name of the runtime in settings.
            threads: threads of one forward pass; 0 divides the cores among the lanes, and gives all of
                them to a call inside ``threads.all_cores``.
            lanes: number of concurrent forward passes.

        Raises:
            Corrupt: if this version of OpenVINO cannot read the file.
        """
        try:
            model = _core().read_model(file, file.with_suffix(".bin"))
            self._compile(model, name, threads, lanes)
        except RuntimeError as error:
            raise Corrupt(
                f"{file} is not a network that this version of OpenVINO can read; train again"
            ) from error
        self.bytes = file.with_suffix(".bin").stat().st_size

    def _compile(self, model: Any, name: str, threads: int, lanes: int) -> None:
        self.name = name
        self._in_lanes = self._alone = _Requests(model, _settings(threads, lanes))
        cores = os.cpu_count() or 1
        if lanes > 1 and cores > 1 and not threads:
            self._alone = _Requests(model, _settings(cores, lanes=1))

    @property
    def outputs(self) -> int:
        """Number of arrays that a call returns."""
        return len(self._in_lanes.outputs)

    def infer(self, images: Floats) -> tuple[Floats, ...]:
        """Run the network on images (B, 3, h, w)."""
        requests = self._alone if has_all_cores() else self._in_lanes
        with requests.idle() as request:
            outputs = request.infer(
                {0: np.ascontiguousarray(images)}, share_inputs=True, share_outputs=True
            )
            # A copy, because the next call overwrites the request's memory.
            return tuple(outputs[output].copy() for output in requests.outputs)


class _Requests:
    """A compiled network and its inference requests."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._compiled = _core().compile_model(model, "CPU", settings)
        self.outputs = tuple(self._compiled.outputs)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    @contextmanager
    def idle(self) -> Iterator[Any]:
        """Provide an idle inference request; the pool grows to the number of concurrent calls."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)


def _settings(threads: int, lanes: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Not the default, which is bf16 on CPUs that support it: slower, and not what was calibrated.
        "INFERENCE_PRECISION_HINT": "f32",
        # With pinning, two processes use the same core and leave others idle.
        "ENABLE_CPU_PINNING": False,
    }
    if lanes > 1:
        settings["NUM_STREAMS"] = lanes
        threads = threads or max(1, (os.cpu_count() or 1) // lanes)
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads * lanes
    return settings


@cache
def _core() -> Any:
    return openvino().Core()
