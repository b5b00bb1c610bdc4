# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from blemish_core.platform.locks import LockHeld, process_lock


def test_second_holder_gets_the_process_id_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text("12345678901\n")
    with process_lock(file):
        assert file.read_text() == f"{os.getpid()}\n"
        with pytest.raises(LockHeld) as held, process_lock(file, wait_s=0.06):
            pass
    assert held.value.holder == str(os.getpid())
    with process_lock(file):
        pass


def test_inherited_descriptor_holds_the_lock(tmp_path: Path) -> None:
    with process_lock(tmp_path / "lock") as descriptor:
        inherited = os.dup(descriptor)
    with pytest.raises(LockHeld), process_lock(tmp_path / "lock"):
        pass
    os.close(inherited)
    with process_lock(tmp_path / "lock"):
        pass
