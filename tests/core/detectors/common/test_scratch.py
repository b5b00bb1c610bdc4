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


def test_what_fits_in_memory_touches_no_disk(tmp_path: Path) -> None:
    room = allocate((256, 1024), "they", memory_bytes=MIB, folder=tmp_path / "new", disk_bytes=MIB)
    assert room.shape == (256, 1024)
    assert not (tmp_path / "new").exists()


def test_what_does_not_fit_is_a_file_without_a_name(tmp_path: Path) -> None:
    before = len(mapped_files())
    room = allocate((257, 1024), "they", memory_bytes=MIB, folder=tmp_path / "new", disk_bytes=2 * MIB)
    room[:] = 2.5
    assert room.sum().item() == 257 * 1024 * 2.5
    assert list((tmp_path / "new").iterdir()) == []
    assert len(mapped_files()) == before + 1
    del room
    assert len(mapped_files()) == before, "the file is still open"


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
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


def test_more_than_both_caps_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"they need 3 MiB.*allows 1 MiB of memory.*2 MiB of disk"):
        allocate((3, 512, 512), "they", memory_bytes=MIB, folder=tmp_path, disk_bytes=2 * MIB)


def test_without_a_folder_there_is_no_disk() -> None:
    with pytest.raises(TooLarge, match="0 MiB of disk"):
        allocate((2, 512, 512), "they", memory_bytes=MIB, folder=None, disk_bytes=8 * MIB)


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"they need 2 MiB in .*BLEMISH_SCRATCH"):
        allocate((2, 512, 512), "they", memory_bytes=MIB, folder=tmp_path, disk_bytes=8 * MIB)
