# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from blemish_core.platform.threads import all_cores, has_all_cores

_SCRIPT = """
import cv2
cv2.setNumThreads(3)
import blemish_core.imaging.image_input
assert cv2.getNumThreads() == 3
from blemish_core.platform.threads import disable_opencv_threads
disable_opencv_threads()
assert cv2.getNumThreads() == 1
"""

_BLAS = """
import numpy
from threadpoolctl import threadpool_info
from blemish_core.platform.threads import disable_blas_threads
disable_blas_threads()
assert [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"] == [1]
"""


def test_blas_threads_are_disabled_although_numpy_was_imported_before() -> None:
    # Otherwise the machine decides, and may have one core.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", _BLAS], check=True, timeout=60, env=environment)


def test_opencv_threads_are_disabled_by_a_call_and_not_by_an_import() -> None:
    subprocess.run([sys.executable, "-c", _SCRIPT], check=True, timeout=60)


def test_all_cores_are_for_the_calling_thread_within_the_block() -> None:
    with all_cores(), ThreadPoolExecutor(1) as other:
        assert has_all_cores()
        assert not other.submit(has_all_cores).result()
    assert not has_all_cores()


def test_all_cores_end_with_an_error_and_after_the_outer_block() -> None:
    with pytest.raises(ValueError, match="inner"), all_cores():
        with all_cores():
            pass
        assert has_all_cores()
        raise ValueError("inner")
    assert not has_all_cores()
