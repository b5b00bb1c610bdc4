# SPDX-License-Identifier: Apache-2.0
"""Import of weights from a file: validated against their network, then copied to the store."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.files import staged_file


def keep(file: Path, name: str, network: str, expected: Mapping[str, Tensor], weights: Path) -> Path:
    """Validate that ``file`` has all tensors of ``expected``, and store them as ``name``.

    Args:
        file: .safetensors file or torch state dict.
        name: name of the weights in the store.
        network: description of the network for messages.
        expected: state dict of that network.
        weights: folder of imported weights.

    Raises:
        InvalidRequest: if the file cannot be read or does not fit.
    """
    tensors = _read(file)
    misfits = [
        key
        for key, tensor in expected.items()
        if not isinstance(tensors, dict) or key not in tensors or tensors[key].shape != tensor.shape
    ]
    if misfits:
        raise InvalidRequest(
            f"{file} does not fit {network}: {len(misfits)} of {len(expected)} tensors are missing or have "
            f"another shape, first {misfits[0]}; import weights of that network"
        )
    weights.mkdir(parents=True, exist_ok=True)
    kept = weights / f"{name}.safetensors"
    with staged_file(kept) as staged:
        save_file({key: tensors[key].contiguous() for key in expected}, staged)
    return kept


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # weights_only: a pickle must not run code here.
        read: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return read
    except Exception as error:  # torch passes on any error of its unpickler
        raise InvalidRequest(
            f"{file} has no readable weights; provide a .safetensors file or a torch state dict"
        ) from error
