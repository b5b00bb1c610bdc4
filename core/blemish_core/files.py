# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, through a crash at any moment."""

import os
from pathlib import Path
from uuid import uuid4


def sync(path: Path) -> None:
    """Have the kernel put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the kernel put a folder and all that is below it on the disk."""
    for entry in folder.iterdir():
        if entry.is_dir():
            sync_tree(entry)
        else:
            sync(entry)
    sync(folder)


def write_durably(path: Path, data: bytes) -> None:
    """Write or replace ``path``: readers see the old content or the new, also after a power cut."""
    staged = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        staged.write_bytes(data)
        sync(staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync(path.parent)
