# SPDX-License-Identifier: Apache-2.0
import errno
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from numpy.typing import NDArray

from blemish_core.platform.compiled import compiled


@pytest.fixture
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


_LIMIT = 20_000_000_000
"""Iterations, for several seconds. With the GIL held, the main thread could not stop the loop earlier."""


def count_until_stopped(ticks: NDArray[np.int64], stop: NDArray[np.int64]) -> None:
    for _ in range(_LIMIT):
        ticks[0] += 1
        if stop[0]:
            break


@pytest.mark.usefixtures("cache_directory")  # code cached earlier may have other options
def test_compiled_code_runs_without_the_gil() -> None:
    run = compiled(count_until_stopped)
    run(np.zeros(1, np.int64), np.ones(1, np.int64))  # compile before the thread starts
    ticks, stop = np.zeros(1, np.int64), np.zeros(1, np.int64)
    thread = threading.Thread(target=run, args=(ticks, stop))
    thread.start()
    while not ticks[0]:
        time.sleep(0.001)
    stop[0] = 1
    thread.join(60)
    assert not thread.is_alive()
    assert 0 < ticks[0] < _LIMIT


def test_infinity_and_nan_keep_their_meaning() -> None:
    def least(values: NDArray[np.float32]) -> float:
        found = np.inf
        for value in values:
            if value < found:
                found = value
        return found

    run = compiled(least)
    assert run(np.array([np.nan, 3, np.inf], np.float32)) == 3
    assert run(np.array([np.nan], np.float32)) == np.inf


def test_code_without_a_cache_directory_is_compiled() -> None:
    names: dict[str, object] = {}
    exec(compile("def double(value):\n    return 2 * value\n", "<nowhere>", "exec"), names)
    double = names["double"]
    assert callable(double)
    assert compiled(double)(21) == 42


def triple(value: int) -> int:
    return 3 * value


def test_compiled_code_is_cached(cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(triple)(14) == 42
    assert list(cache_directory.rglob("*.nbc"))
    monkeypatch.setattr("numba.core.dispatcher._FunctionCompiler.compile", None)  # fails if called
    assert compiled(triple)(14) == 42


def test_full_disk_fails_no_call(cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert compiled(triple)(14) == 42
    assert compiled(triple)(14) == 42


@pytest.mark.parametrize("pattern", ["*.nbc", "*.nbi"])
@pytest.mark.parametrize("left", [0, 40])
def test_truncated_cache_is_compiled_again(cache_directory: Path, pattern: str, left: int) -> None:
    assert compiled(triple)(14) == 42
    for file in cache_directory.rglob(pattern):
        file.write_bytes(file.read_bytes()[:left])
    assert compiled(triple)(14) == 42
    assert compiled(triple)(14) == 42
