# SPDX-License-Identifier: Apache-2.0
"""OpenVINO for torch: conversion of networks, and a runtime for detectors in torch."""

import copy
import errno
import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blemish_core.detectors.base import held_bytes
from blemish_core.detectors.common.staged_network import StagedNetwork
from blemish_core.imaging.geometry import ANY_SIZE, STEP, Size
from blemish_core.runtimes.openvino_import import openvino
from blemish_core.runtimes.openvino_network import NAME, OpenVinoNetwork

_EXAMPLE_SIDE = 256  # of networks for any size, px
_EXAMPLES = 2  # torch.export would treat a batch of one as a constant


class NotConvertible(Exception):
    """A network that torch runs for inputs of all sizes and OpenVINO does not."""


def export(network: nn.Module, input_size: Size, file: Path) -> None:
    """Write ``network`` as float32 IR for any batch size: ``file`` (.xml) and its weights (.bin).

    ``input_size`` is ``geometry.ANY_SIZE`` for a network that accepts inputs of different sizes.

    Raises:
        NotConvertible: if OpenVINO cannot run the network for all of them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    save(_model(network, input_size), file)


def save(model: Any, file: Path) -> None:
    """Write a model of OpenVINO as float32 IR: ``file`` (.xml) and its weights (.bin).

    Raises:
        OSError: if it cannot be written, for lack of space, the usual cause.
    """
    try:
        openvino().save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream error" not in str(error):
            raise
        # OpenVINO removes the part that it wrote, and gives no reason.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error


class ConversionCache:
    """A cache of converted networks that evicts the least recently used.

    Conversion takes seconds, and trainings on different surfaces share their backbone.

    A network is identified by its weights and its ``repr``, so the latter must contain all other
    parameters.
    """

    def __init__(self, max_bytes: int) -> None:
        """Limit the cache to ``max_bytes`` of weights; it keeps at least one network."""
        self._max_bytes = max_bytes
        self._models: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def convert(self, network: nn.Module, input_size: Size) -> Any:
        """Return OpenVINO's model of a network, converted or from the cache."""
        digest = hashlib.sha256(f"{input_size} {network}".encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        key = digest.hexdigest()
        if key not in self._models:
            self._models[key] = _convert(network, input_size), held_bytes(network)
        self._models.move_to_end(key)
        model, _ = self._models[key]
        while len(self._models) > 1 and sum(size for _, size in self._models.values()) > self._max_bytes:
            self._models.popitem(last=False)
        return model.clone()

    def clear(self) -> None:
        """Remove all networks."""
        self._models.clear()


CONVERSIONS = ConversionCache(256 << 20)
"""Cache of this process."""


def _model(network: nn.Module, input_size: Size) -> Any:
    """Return OpenVINO's model of a network, with copies of its weights."""
    if not isinstance(network, StagedNetwork):
        return CONVERSIONS.convert(network, input_size)
    shared = CONVERSIONS.convert(network.shared, input_size)
    return shared if network.projection is None else _append_projection(shared, network.projection)


def _append_projection(model: Any, projection: nn.Conv2d) -> Any:
    """Return a model with a 1 x 1 convolution after its output."""
    from openvino import opset13 as ops

    assert projection.bias is not None
    weight, bias = (tensor.detach().cpu().numpy().copy() for tensor in (projection.weight, projection.bias))
    output = model.output(0).get_node().input_value(0)
    projected = ops.convolution(output, ops.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    projected = ops.add(projected, ops.constant(bias[None, :, None, None]))
    return openvino().Model([projected], model.get_parameters())


def _convert(network: nn.Module, input_size: Size) -> Any:
    """Convert a network by torch.export, for any batch size; takes seconds."""
    # A copy, because OpenVINO's constants share memory with torch's.
    network = copy.deepcopy(network).cpu()
    if input_size == ANY_SIZE and getattr(network, "symbolic_sizes", False):
        return _export_symbolic(network)
    # Exporting a fixed batch size and relaxing it is three times as fast as a symbolic one, but some
    # operations keep the fixed size.
    model = _export(network, input_size, symbolic=False)
    if any(output.partial_shape[0].is_static for output in model.outputs):
        model = _export(network, input_size, symbolic=True)
    return model


def _export(network: nn.Module, input_size: Size, *, symbolic: bool) -> Any:
    height, width = (_EXAMPLE_SIDE if side < 0 else side for side in input_size)
    example = torch.zeros(_EXAMPLES, 3, height, width)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if symbolic else None
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    model = openvino().convert_model(program)
    model.reshape({0: [-1, 3, *input_size]})
    return model


def _export_symbolic(network: nn.Module) -> Any:
    """Convert a network whose computations depend on the size of its input."""
    # Different sides, because torch.export would take equal ones for the same symbol.
    example = torch.zeros(_EXAMPLES, 3, _EXAMPLE_SIDE, _EXAMPLE_SIDE + STEP)
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=(sizes,))
        (name,) = program.graph_signature.user_inputs
        (images,) = (node for node in program.graph.nodes if node.name == name)
        # A computation that needs the size as a number makes it a constant without an error: a symbol whose
        # only value is that number.
        if any(str(images.meta["val"].shape[dimension]).isdigit() for dimension in sizes):
            raise NotConvertible("the network depends on the size of its input in a way that is fixed")
        model = openvino().convert_model(program)
        model.reshape({0: [-1, 3, *ANY_SIZE]})
    except NotConvertible:
        raise
    except Exception as error:  # of several libraries, without a class in common
        reason = str(error).strip().partition("\n")[0]
        raise NotConvertible(f"the network cannot be exported for all sizes ({reason})") from error
    return model


class OpenVinoRuntime(OpenVinoNetwork):
    """A network on the CPU for detectors in torch."""

    @classmethod
    def of(cls, network: nn.Module, input_size: Size, *, threads: int = 0) -> "OpenVinoRuntime":
        """Convert a network in memory."""
        made = cls.__new__(cls)
        made._compile(_model(network, input_size), NAME, threads, lanes=1)
        made.bytes = held_bytes(network)
        return made

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, self.infer(images.cpu().contiguous().numpy())))
