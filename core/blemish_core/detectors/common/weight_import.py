# SPDX-License-Identifier: Apache-2.0
"""Weights from a file that somebody brings: checked against the network they are for, kept in the store."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.files import staged_file


def keep(file: Path, name: str, network: str, wanted: Mapping[str, Tensor], weights: Path) -> Path:
    """Check that ``file`` has all tensors of ``wanted`` and keep them as ``name``.

    Args:
        file: .safetensors, or a state dict of torch.
        name: what the weights are called from now on.
        network: whose they must be, in words.
        wanted: a state dict of that network.
        weights: the store's folder of weights.

    Raises:
        InvalidRequest: if it is no such file, or does not fit.
    """
    tensors = _read(file)
    misfits = [
        key
        for key, tensor in wanted.items()
        if not isinstance(tensors, dict) or key not in tensors or tensors[key].shape != tensor.shape
    ]
    if misfits:
        raise InvalidRequest(
            f"{file} does not fit {network}: {len(misfits)} of {len(wanted)} tensors are missing or of "
            f"another shape, first {misfits[0]}"
        )
    weights.mkdir(parents=True, exist_ok=True)
    kept = weights / f"{name}.safetensors"
    with staged_file(kept) as staged:
        save_file({key: tensors[key].contiguous() for key in wanted}, staged)
    return kept


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # weights_only: a pickle must not run code here.
        read: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return read
    except Exception as error:  # torch raises what its unpickler raises
        raise InvalidRequest(
            f"{file} holds no weights that can be read: .safetensors or a torch state dict is needed"
        ) from error
