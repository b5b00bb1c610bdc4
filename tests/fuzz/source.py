# SPDX-License-Identifier: Apache-2.0
"""Values drawn from the bytes of an input, so that mutations of bytes become mutations of values."""

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class Source:
    """A reader of values from bytes; after the end all values are zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def integer(self, size: int = 1) -> int:
        """Return a signed integer of ``size`` bytes, or 0 to 255 of one byte."""
        return int.from_bytes(self.take(size), "little", signed=size > 1)

    def choice(self, options: Sequence[Value]) -> Value:
        """Return one of ``options``."""
        return options[self.integer() % len(options)]

    def take(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def block(self) -> bytes:
        """Return bytes that begin with their length, up to 255."""
        return self.take(self.integer())

    def text(self) -> str:
        """Return a text of up to 255 bytes; invalid bytes become surrogates, as in names of files."""
        return self.block().decode(errors="surrogateescape")

    def rest(self) -> bytes:
        """Return all remaining bytes."""
        return self.take(len(self._data))
