# SPDX-License-Identifier: Apache-2.0
"""A working day at the command line, from an empty folder to the next version in production."""

from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack
from tests.support import working_day


@pytest.mark.timeout(600)
def test_working_day_from_an_empty_folder_to_the_next_version(stack: RunningStack, tmp_path: Path) -> None:
    working_day.prepare(tmp_path, 120)
    working_day.work_a_day(working_day.Shell(stack.address, tmp_path))
