# SPDX-License-Identifier: Apache-2.0
"""The division of good images into training and test, where a folder has none."""

import hashlib
import os

_ONE_IN = 5


def is_test(path: str) -> bool:
    """Return whether a good image is for testing: one in five, by its path alone.

    An image keeps its part when others are added.
    """
    return hashlib.sha256(os.fsencode(path)).digest()[0] % _ONE_IN == 0
