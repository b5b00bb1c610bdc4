# SPDX-License-Identifier: Apache-2.0
"""Small files that are there whole or not at all, through a crash at any moment."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the kernel put a file, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def staged(path: Path) -> Path:
    """Return where the next content of ``path`` is written before it takes its place."""
    return path.with_name(f".{path.name}.new")


def write_durably(path: Path, data: bytes) -> None:
    """Write or replace ``path``: a reader finds the old content or the new, after a crash too."""
    # One process writes here, so one name for what is staged is enough, and no crash piles up more.
    new = staged(path)
    new.write_bytes(data)
    sync(new)
    new.replace(path)
    sync(path.parent)


def remove_durably(path: Path) -> None:
    path.unlink()
    sync(path.parent)
