# SPDX-License-Identifier: Apache-2.0
"""Log files of services: appended to by each run, rotated at a start when they are large."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ROTATE_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class ServiceLog:
    """The log file of one service."""

    path: Path

    def open_for_run(self) -> tuple[BinaryIO, int]:
        """Return the file, open for appending, and the offset at which the run begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > ROTATE_BYTES:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        output = self.path.open("ab")
        output.write(f"--- start at {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode())
        output.flush()
        return output, output.tell()

    def tail(self, begin: int, lines: int = 15) -> list[str]:
        """Return the last lines after an offset."""
        with self.path.open("rb") as written:
            size = written.seek(0, 2)
            written.seek(max(begin, size - _TAIL_BYTES))
            text = written.read().decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
