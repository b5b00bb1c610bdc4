# SPDX-License-Identifier: Apache-2.0
"""Error messages for the owner of a job."""

import errno
import os

import torch

from blemish_core.platform.errors import BlemishError


def error_for_owner(error: Exception) -> str | None:
    """Return an error message that the job's owner can act on; None for a bug, which only the log shows."""
    if isinstance(error, BlemishError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"GPU memory is exhausted ({error}); use a smaller input_size"
    if isinstance(error, MemoryError):
        return "memory is exhausted; use a smaller input_size or coreset_ratio, or fewer images"
    if _is_for_lack_of_space(error):
        return "the disk of the store is full; free some space and try again"
    return None


def _is_for_lack_of_space(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, is about a full disk or quota.

    Libraries that write files in C++ or Rust report it in the text of an error of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False
