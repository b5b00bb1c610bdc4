# SPDX-License-Identifier: Apache-2.0

import errno

import pytest
import torch

from blemish_core.jobs.handlers.train import reason
from blemish_core.platform.errors import NotFound


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotFound("there is no dataset"), "there is no dataset"),
        (MemoryError(), "memory is exhausted"),
        (torch.cuda.OutOfMemoryError("2 GiB"), "the GPU's memory is exhausted"),
        (OSError(errno.ENOSPC, "No space left on device"), "the store's disk is full"),
    ],
)
def test_what_a_person_can_act_on_is_told(error: Exception, told: str) -> None:
    assert told in (reason(error) or "")


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), OSError(errno.EIO, "secret"), KeyError("secret")]
)
def test_a_bug_is_not(error: Exception) -> None:
    assert reason(error) is None
