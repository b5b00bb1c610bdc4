# SPDX-License-Identifier: Apache-2.0

import errno
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

from blemish_core.platform.compiled import compiled


def halves(values: NDArray[np.float32], stop: NDArray[np.bool_]) -> float:
    total = 0.0
    for number in range(1_000_000_000):
        total += values[number % len(values)] / 2
        if stop[0]:
            break
    return total


def test_it_runs_without_pythons_lock() -> None:
    run = compiled(halves)
    stop = np.array([True])
    assert run(np.ones(3, np.float32), stop) == 0.5
    stop[0] = False
    thread = threading.Thread(target=run, args=(np.ones(3, np.float32), stop))
    thread.start()
    # Held, the lock would not come back before all of it is added up.
    stop[0] = True
    thread.join(30)
    assert not thread.is_alive()


def test_infinity_and_nan_stay_what_they_are() -> None:
    def least(values: NDArray[np.float32]) -> float:
        found = np.inf
        for value in values:
            if value < found:
                found = value
        return found

    run = compiled(least)
    assert run(np.array([np.nan, 3, np.inf], np.float32)) == 3
    assert run(np.array([np.nan], np.float32)) == np.inf


def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    names: dict[str, object] = {}
    exec(compile("def double(value):\n    return 2 * value\n", "<nowhere>", "exec"), names)
    double = names["double"]
    assert callable(double)
    assert compiled(double)(21) == 42


def triple(value: int) -> int:
    return 3 * value


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_code_is_kept(kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(triple)(14) == 42
    assert list(kept_in.rglob("*.nbc"))
    monkeypatch.setattr("numba.core.dispatcher._FunctionCompiler.compile", None)  # never again
    assert compiled(triple)(14) == 42


def test_a_full_disk_keeps_no_code_and_fails_no_call(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert compiled(triple)(14) == 42
    assert compiled(triple)(14) == 42


@pytest.mark.parametrize("pattern", ["*.nbc", "*.nbi"])
@pytest.mark.parametrize("left", [0, 40])
def test_code_that_was_cut_off_is_compiled_anew(kept_in: Path, pattern: str, left: int) -> None:
    assert compiled(triple)(14) == 42
    for file in kept_in.rglob(pattern):
        file.write_bytes(file.read_bytes()[:left])
    assert compiled(triple)(14) == 42
    assert compiled(triple)(14) == 42
