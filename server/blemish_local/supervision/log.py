# SPDX-License-Identifier: Apache-2.0
"""Log files of services: appended to by each run, rotated at a start when they are large."""

import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

ROTATE_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class ServiceLog:
    """The log file of one service."""

    path: Path

    def open_for_run(self) -> tuple[FileIO, int]:
        """Return the file, open for appending, and the offset at which the run begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > ROTATE_BYTES:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        output = self.path.open("ab", buffering=0)  # a buffer would fail again at its end
        with suppress(OSError):  # on a full disk the service runs without its log
            output.write(f"--- start at {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode())
        return output, output.tell()

    def tail(self, begin: int, lines: int = 15) -> list[str]:
        """Return the last lines after an offset."""
        with self.path.open("rb") as written:
            size = written.seek(0, 2)
            written.seek(max(begin, size - _TAIL_BYTES))
            text = written.read(_TAIL_BYTES).decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
