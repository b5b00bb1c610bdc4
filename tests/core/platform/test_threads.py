# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

_SCRIPT = """
import cv2
cv2.setNumThreads(3)
import blemish_core.imaging.image_input
assert cv2.getNumThreads() == 3
from blemish_core.platform.threads import disable_opencv_threads
disable_opencv_threads()
assert cv2.getNumThreads() == 1
"""


def test_opencv_threads_are_disabled_by_a_call_and_not_by_an_import() -> None:
    subprocess.run([sys.executable, "-c", _SCRIPT], check=True, timeout=60)
