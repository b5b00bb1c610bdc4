# SPDX-License-Identifier: Apache-2.0
"""Room for what a training gathers: in memory up to a cap, beyond it in a file, up to another cap.

The file has no name: it is gone with the process that opened it, however that ends.
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
    shape: Sequence[int], what: str, *, memory_bytes: int, folder: Path | None, disk_bytes: int
) -> Tensor:
    """Return an uninitialised float32 tensor of ``shape`` on the CPU, mapped to a file if it must be.

    Pages of the file are the kernel's to drop: they count as the process's own only while there is memory
    to spare. Without a ``folder`` there is no file.

    Raises:
        TooLarge: if it fits neither cap; ``what`` opens the sentence, in the plural.
        DiskFull: if the folder has not the room that its cap allows.
    """
    needed = prod(shape) * _FLOAT_BYTES
    if needed <= memory_bytes:
        return torch.empty(*shape)
    if folder is None:
        disk_bytes = 0
    if needed > disk_bytes:
        raise TooLarge(
            f"{what} need {_mib(needed)}, but BLEMISH_MAX_FEATURE_BYTES allows {_mib(memory_bytes)} of "
            f"memory and BLEMISH_MAX_SCRATCH_BYTES {_mib(disk_bytes)} of disk; train on fewer images, take "
            "a smaller input_size, or raise a setting"
        )
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # A hole that cannot be filled later would be a SIGBUS, not an error.
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise DiskFull(
                f"{what} need {_mib(needed)} in {folder}, where there is not so much room; make room, or "
                "name another folder by BLEMISH_SCRATCH"
            ) from error
        # The mapping keeps the file when its descriptor is closed.
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=tuple(shape)))


def _mib(count: int) -> str:
    return f"{-(-count >> 20)} MiB"
