# SPDX-License-Identifier: Apache-2.0

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blemish_core.detectors.common.scratch import allocate
from blemish_core.platform.errors import DiskFull, TooLarge

MIB = 1 << 20


def mapped_files() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line]


def test_tensor_within_the_memory_limit_uses_no_disk(tmp_path: Path) -> None:
    room = allocate((256, 1024), "they", memory_bytes=MIB, folder=tmp_path / "new", disk_bytes=MIB)
    assert room.shape == (256, 1024)
    assert not (tmp_path / "new").exists()


def test_tensor_over_the_memory_limit_is_an_unnamed_file(tmp_path: Path) -> None:
    before = len(mapped_files())
    room = allocate((257, 1024), "they", memory_bytes=MIB, folder=tmp_path / "new", disk_bytes=2 * MIB)
    room[:] = 2.5
    assert room.sum().item() == 257 * 1024 * 2.5
    assert list((tmp_path / "new").iterdir()) == []
    assert len(mapped_files()) == before + 1
    del room
    assert len(mapped_files()) == before, "the file is still open"


def test_killed_process_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from blemish_core.detectors.common.scratch import allocate; "
        "room = allocate((1024, 1024), 'they', memory_bytes=0, "
        "folder=Path(sys.argv[1]), disk_bytes=4 << 20); "
        "room[:] = 1; os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert killed.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_tensor_over_both_limits_is_rejected_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"they need 3 MiB.*allows 1 MiB of memory.*2 MiB of disk"):
        allocate((3, 512, 512), "they", memory_bytes=MIB, folder=tmp_path, disk_bytes=2 * MIB)


def test_no_disk_is_used_without_a_folder() -> None:
    with pytest.raises(TooLarge, match="0 MiB of disk"):
        allocate((2, 512, 512), "they", memory_bytes=MIB, folder=None, disk_bytes=8 * MIB)


def test_full_disk_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"they need 2 MiB in .*BLEMISH_SCRATCH"):
        allocate((2, 512, 512), "they", memory_bytes=MIB, folder=tmp_path, disk_bytes=8 * MIB)
