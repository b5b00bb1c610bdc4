# SPDX-License-Identifier: Apache-2.0
"""The free space on the disk of the store, and the limit below which nothing is written that can wait."""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blemish_core.platform.errors import DiskFull


@dataclass(frozen=True)
class DiskSpace:
    """The space on a disk at one moment."""

    free_bytes: int
    """Space that this user can fill."""
    total_bytes: int
    has_free_files: bool = True
    """False if the disk can hold no more files, although it has space."""


@dataclass(frozen=True)
class StoreDisk:
    """The disk that holds the store."""

    folder: Path
    """Folder of the store, which need not exist yet."""
    min_free_bytes: int
    """Space below which the disk counts as full; 0 if it never does."""

    def space(self) -> DiskSpace:
        """Return the space on the disk.

        Raises:
            OSError: if the disk cannot be read.
        """
        found = os.statvfs(_existing(self.folder))
        # A user may fill f_bavail blocks; the rest of f_bfree is reserved for the superuser.
        return DiskSpace(
            found.f_bavail * found.f_frsize,
            found.f_blocks * found.f_frsize,
            has_free_files=found.f_favail > 0 or found.f_files == 0,
        )

    def shortage(self, space: DiskSpace) -> str:
        """Return what is wrong with the space, and what to do; empty if there is enough."""
        if not self.min_free_bytes:
            return ""
        remedy = "free some space or move the store (BLEMISH_STORE)"
        if not space.has_free_files:
            return f"the disk that holds {self.folder} can hold no more files; delete some, or {remedy}"
        if space.free_bytes >= self.min_free_bytes:
            return ""
        return (
            f"the disk that holds {self.folder} has {_size(space.free_bytes)} free, less than the "
            f"{_size(self.min_free_bytes)} of BLEMISH_MIN_FREE_BYTES; {remedy}"
        )

    def require_space(self) -> None:
        """Check that there is enough space for work that can wait.

        Raises:
            DiskFull: if there is not.
        """
        with suppress(OSError):  # a disk that cannot be read fails the work itself, with its reason
            if shortage := self.shortage(self.space()):
                raise DiskFull(shortage)


def is_for_lack_of_space(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, is about a full disk or quota.

    Libraries that write files in C++ or Rust report it in the text of an error of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if is_text_about_lack_of_space(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_text_about_lack_of_space(text: str) -> bool:
    """Return whether a message has the system's words for a full disk or quota."""
    return any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT))


def _existing(folder: Path) -> Path:
    """Return a folder, or the closest one above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.exists()), folder)


def _size(size_bytes: int) -> str:
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
