# SPDX-License-Identifier: Apache-2.0
"""Output that never raises: a full disk or a closed pipe of the log must not fail a request."""

import io
import os
import sys
from typing import Any, TextIO

_replaced: list["LossyOutput"] = []
"""The standard streams of this process."""


class LossyOutput(io.RawIOBase):
    """An open file that drops the lines that cannot be written, and counts them."""

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor, which stays open."""
        self._descriptor = descriptor
        self._unreported = 0
        self._is_torn = False
        self.lost = 0
        """Number of writes that failed."""

    def as_text(self) -> TextIO:
        """Return a text stream that writes whole lines to this output."""
        buffer: Any = self  # a raw stream, as Python itself uses it for unbuffered output
        return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # callers pass bytes
        """Write lines, or drop them. Return their size in bytes in either case."""
        size = len(data)
        try:
            if self._unreported:
                self._write_all(b"\n" * self._is_torn + b"%d log lines were lost\n" % self._unreported)
                self._unreported, self._is_torn = 0, False
            self._write_all(data)
        except OSError:
            self.lost += 1
            self._unreported += 1
        return size

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]
            self._is_torn = bool(left)


def replace_standard_streams() -> None:
    """Let neither a log nor a print of any library raise if it cannot be written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(getattr(stream, "buffer", None), LossyOutput):
            continue
        try:
            output = LossyOutput(stream.fileno())
        except (AttributeError, OSError):
            continue  # a stream without a file, which has none to fill
        _replaced.append(output)
        text = output.as_text()
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)  # Celery prints there


def lost_lines() -> int:
    """Return the number of lines of the standard streams that could not be written."""
    return sum(output.lost for output in _replaced)
