# SPDX-License-Identifier: Apache-2.0
"""Memory for the features of a training, in RAM up to one limit and in a mapped file up to another.

The file has no name, so the operating system deletes it when the process ends for any reason.
"""

import errno
import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blemish_core.platform.errors import DiskFull, TooLarge

_FLOAT_BYTES = 4


def allocate(
    shape: Sequence[int], name: str, *, memory_bytes: int, folder: Path | None, disk_bytes: int
) -> Tensor:
    """Return an uninitialised float32 tensor of ``shape`` on the CPU, mapped to a file if necessary.

    The kernel may evict pages of the file, so they do not exhaust memory. Without a ``folder`` there is no
    file.

    Raises:
        TooLarge: if the tensor exceeds both limits; ``name`` is the plural subject of the message.
        DiskFull: if the disk is full before the limit is reached.
    """
    needed = prod(shape) * _FLOAT_BYTES
    if needed <= memory_bytes:
        return torch.empty(*shape)
    if folder is None:
        disk_bytes = 0
    if needed > disk_bytes:
        raise TooLarge(
            f"{name} need {_mib(needed)}, but BLEMISH_MAX_FEATURE_BYTES allows {_mib(memory_bytes)} of "
            f"memory and BLEMISH_MAX_SCRATCH_BYTES {_mib(disk_bytes)} of disk; train on fewer images, "
            "lower input_size, or raise a setting"
        )
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # Without allocated blocks a full disk would cause a SIGBUS later rather than an error.
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise DiskFull(
                f"{name} need {_mib(needed)} in {folder}, but the disk is full; free disk space, or set "
                "BLEMISH_SCRATCH to another folder"
            ) from error
        # The mapping keeps the file after its descriptor is closed.
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=tuple(shape)))


def _mib(count: int) -> str:
    return f"{-(-count >> 20)} MiB"
