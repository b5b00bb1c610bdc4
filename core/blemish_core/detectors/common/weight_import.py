# SPDX-License-Identifier: Apache-2.0
"""Import of weights from a file: validated against their network, then copied to the store."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.files import staged_file

_WRAPPERS = ("state_dict", "model", "teacher")
"""The entries of training checkpoints that hold the weights."""


def keep(
    file: Path,
    name: str,
    network: str,
    expected: Mapping[str, Tensor],
    weights: Path,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Path:
    """Validate that ``file`` has all tensors of ``expected``, and store them as ``name``.

    Args:
        file: .safetensors file, torch state dict, or a training checkpoint with one inside.
        name: name of the weights in the store.
        network: description of the network for messages.
        expected: state dict of that network.
        weights: folder of imported weights.
        convert: conversion of another publisher's names, tried if the names do not fit.

    Raises:
        InvalidRequest: if the file cannot be read, does not fit, or has values that are not finite.
    """
    tensors = _read(file)
    misfits = _misfits(tensors, expected)
    if misfits and convert is not None and tensors:
        try:
            converted = convert(tensors)
        except Exception:  # a conversion may fail in any way on another network's tensors
            converted = {}
        if not _misfits(converted, expected):
            tensors, misfits = converted, []
    if misfits:
        raise InvalidRequest(
            f"{file} does not fit {network}: {len(misfits)} of {len(expected)} tensors are missing or have "
            f"another shape, first {misfits[0]}; import weights of that network"
        )
    for key in expected:
        if not tensors[key].isfinite().all():
            raise InvalidRequest(f"{key} in {file} has values that are not finite; download the file again")
    weights.mkdir(parents=True, exist_ok=True)
    kept = weights / f"{name}.safetensors"
    with staged_file(kept) as staged:
        save_file({key: tensors[key].contiguous() for key in expected}, staged)
    return kept


def _misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [
        key for key, tensor in expected.items() if key not in tensors or tensors[key].shape != tensor.shape
    ]


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors in a file, without anything else in it."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # weights_only: a pickle must not run code here.
        read: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on any error of its unpickler
        raise InvalidRequest(
            f"{file} has no readable weights; provide a .safetensors file or a torch state dict"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(read, dict) and isinstance(read.get(wrapper), dict):
            read = read[wrapper]
    entries = read.items() if isinstance(read, dict) else ()
    return {str(key): value for key, value in entries if isinstance(value, Tensor)}
