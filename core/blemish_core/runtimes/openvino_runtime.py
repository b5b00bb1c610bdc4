# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: runs a detector's network on a CPU, several times faster than torch.

A network is exported once, when a model is published, as IR: an XML graph of OpenVINO's own operations and
a file of weights. Reading it executes nothing: an operation that OpenVINO does not know is an error, and
extensions are loaded by API calls alone, of which there are none here.
"""

import copy
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import held_bytes
from blemish_core.detectors.common.staged_network import StagedNetwork
from blemish_core.platform.errors import Corrupt
from blemish_core.runtimes.openvino_import import openvino

NAME = "openvino"
# Of the networks of surfaces that are trained in turn; the last one is kept however large.
_KEPT_BYTES = 256 << 20
_EXAMPLES = 2  # of one image torch.export would make a constant


def export(network: nn.Module, input_size: int, file: Path) -> None:
    """Write ``network`` as IR: ``file`` (.xml) and its weights beside it (.bin), float32, for any batch."""
    file.parent.mkdir(parents=True, exist_ok=True)
    openvino().save_model(_model(network, input_size), file, compress_to_fp16=False)


def _model(network: nn.Module, input_size: int) -> Any:
    """OpenVINO's model of a network, with copies of its weights."""
    if not isinstance(network, StagedNetwork):
        return _kept(network, input_size)
    shared = _kept(network.shared, input_size)
    return shared if network.projection is None else _mapped(shared, network.projection)


_models: OrderedDict[str, tuple[Any, int]] = OrderedDict()
"""Models made before and their bytes, by what they were made of; the most recently used last."""


def _kept(network: nn.Module, input_size: int) -> Any:
    """The model of a network, made or kept: what is trained next mostly has one that was there before.

    It is known by the network's ``repr`` and weights: what else it computes by has to be in the former.
    """
    digest = hashlib.sha256(f"{input_size} {network}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    key = digest.hexdigest()
    if key not in _models:
        _models[key] = _converted(network, input_size), held_bytes(network)
    _models.move_to_end(key)
    model, _ = _models[key]
    while len(_models) > 1 and sum(each for _, each in _models.values()) > _KEPT_BYTES:
        _models.popitem(last=False)
    return model.clone()


def forget() -> None:
    """Let go of the models that are kept, as a benchmark needs it."""
    _models.clear()


def _mapped(model: Any, own: nn.Conv2d) -> Any:
    """A model whose answer goes through a convolution of one patch."""
    from openvino import opset13 as ops

    assert own.bias is not None
    weight, bias = (tensor.detach().cpu().numpy().copy() for tensor in (own.weight, own.bias))
    plain = model.output(0).get_node().input_value(0)
    mapped = ops.convolution(plain, ops.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    mapped = ops.add(mapped, ops.constant(bias[None, :, None, None]))
    return openvino().Model([mapped], model.get_parameters())


def _converted(network: nn.Module, input_size: int) -> Any:
    """A network as torch.export and OpenVINO see it, its batch open; it takes seconds."""
    # Of a copy: OpenVINO's constants are the very memory of torch's.
    network = copy.deepcopy(network).cpu()
    # A fixed batch that is opened afterwards takes a third of the time, where no operation keeps it.
    model = _traced(network, input_size, symbolic=False)
    if any(output.partial_shape[0].is_static for output in model.outputs):
        model = _traced(network, input_size, symbolic=True)
    return model


def _traced(network: nn.Module, input_size: int, *, symbolic: bool) -> Any:
    example = torch.zeros(_EXAMPLES, 3, input_size, input_size)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if symbolic else None
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    model = openvino().convert_model(program)
    model.reshape({0: [-1, 3, input_size, input_size]})
    return model


class OpenVinoRuntime:
    """A network on the CPU. Threads may call at once: a call a lane is computed at once."""

    def __init__(self, file: Path, *, name: str = NAME, threads: int = 0, lanes: int = 1) -> None:
        """Load the IR in ``file``.

        Args:
            file: the XML; its weights lie beside it.
            name: as settings spell it.
            threads: threads of one forward pass; 0 takes one a core, shared out among the lanes.
            lanes: forward passes at once.

        Raises:
            Corrupt: if it is no network that this OpenVINO reads.
        """
        try:
            model = _core().read_model(file, file.with_suffix(".bin"))
            self._compile(model, name, threads, lanes)
        except RuntimeError as error:
            raise Corrupt(f"{file} is no network that this OpenVINO reads; train again") from error
        self.bytes = file.with_suffix(".bin").stat().st_size

    @classmethod
    def of(cls, network: nn.Module, input_size: int, *, threads: int = 0) -> "OpenVinoRuntime":
        """Convert a network that is not published yet."""
        made = cls.__new__(cls)
        made._compile(_model(network, input_size), NAME, threads, lanes=1)
        made.bytes = held_bytes(network)
        return made

    def _compile(self, model: Any, name: str, threads: int, lanes: int) -> None:
        self.name = name
        self._compiled = _core().compile_model(model, "CPU", _settings(threads, lanes))
        self._outputs = tuple(self._compiled.outputs)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        with self._request() as request:
            answers = request.infer(
                {0: images.cpu().contiguous().numpy()}, share_inputs=True, share_outputs=True
            )
            # Copied: the request's own memory is written again by the next call.
            return tuple(torch.from_numpy(answers[output]).clone() for output in self._outputs)

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """An infer request that nobody else uses; as many are made as are used at once."""
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
        # Never the default, which is bf16 where the CPU has it: slower there, and not what was calibrated.
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinned, two processes share one core and leave the others idle.
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
