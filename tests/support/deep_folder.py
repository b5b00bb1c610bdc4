# SPDX-License-Identifier: Apache-2.0
"""Folders that are deeper than Python's limit on recursion."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEPTH = 1200


@contextmanager
def deep_folder(root: Path, depth: int = DEPTH) -> Iterator[str]:
    """Yield the path of a folder ``depth`` levels below ``root``, which is empty at the end."""
    paths = [f"{root}{'/d' * (level + 1)}" for level in range(depth)]
    for path in paths:
        os.mkdir(path)  # noqa: PTH102 - pathlib calls itself for each level
    try:
        yield paths[-1]
    finally:
        for path in reversed(paths):
            os.rmdir(path)  # noqa: PTH106
