# SPDX-License-Identifier: Apache-2.0

import errno

import pytest
import torch

from blemish_core.jobs.handlers.errors import error_for_owner
from blemish_core.platform.errors import NotFound


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotFound("there is no dataset"), "there is no dataset"),
        (MemoryError(), "memory is exhausted"),
        (torch.cuda.OutOfMemoryError("2 GiB"), "GPU memory is exhausted"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk of the store is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk of the store is full"),
    ],
)
def test_owner_sees_errors_that_they_can_act_on(error: Exception, message: str) -> None:
    assert message in (error_for_owner(error) or "")


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), OSError(errno.EIO, "secret"), KeyError("secret")]
)
def test_owner_does_not_see_internal_errors(error: Exception) -> None:
    assert error_for_owner(error) is None
