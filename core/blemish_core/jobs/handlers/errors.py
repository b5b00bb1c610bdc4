# SPDX-License-Identifier: Apache-2.0
"""Error messages for the owner of a job."""

import torch

from blemish_core.platform.disk import is_for_lack_of_space
from blemish_core.platform.errors import BlemishError


def error_for_owner(error: Exception) -> str | None:
    """Return an error message that the job's owner can act on; None for a bug, which only the log shows."""
    if isinstance(error, BlemishError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"GPU memory is exhausted ({error}); use a smaller input_size"
    if isinstance(error, MemoryError):
        return "memory is exhausted; use a smaller input_size or coreset_ratio, or fewer images"
    if is_for_lack_of_space(error):
        return "the disk of the store is full; free some space and try again"
    return None
