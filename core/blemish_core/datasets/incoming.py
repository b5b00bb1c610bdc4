# SPDX-License-Identifier: Apache-2.0
"""A file on its way into a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blemish_core.datasets.layout import LayoutPath
from blemish_core.datasets.records import Provenance
from blemish_core.platform.errors import InvalidRequest
from blemish_layouts.names import MAX_ORIGINAL_BYTES, printable
from blemish_layouts.placement import MisplacedFile, place

BeforeReplacing = Callable[[str, Mapping[str, str]], None]
"""Function that is called with a dataset's id and the SHA-256 digests by path of what is to be replaced."""


@dataclass(frozen=True)
class IncomingFile:
    """An image or a mask that is to be stored."""

    path: str
    """Path in the layout, or like one if there is no original path."""
    data: bytes
    sha256: bytes | None = None
    """Expected SHA-256 of ``data``, 32 bytes."""
    original: str = ""
    """Path that the sender has, if it differs from ``path``."""
    provenance: Provenance | None = None
    """Origin of an image that was an indexed item."""

    @property
    def shown(self) -> str:
        """Path for people, in one line."""
        return printable(self.original or self.path)

    def place(self) -> tuple[LayoutPath, str]:
        """Return the path in the layout, and the original path if it differs.

        Raises:
            InvalidRequest: if the path is not like one of the layout, or the original path is too long.
        """
        if self.original:
            if len(self.original.encode()) > MAX_ORIGINAL_BYTES:
                raise InvalidRequest(
                    f"original_path has more than {MAX_ORIGINAL_BYTES} bytes; shorten it",
                    field="original_path",
                )
            location = LayoutPath.parse(self.path)
            return location, "" if self.original == self.path else self.original
        try:
            placement = place(self.path)
        except MisplacedFile as error:
            raise InvalidRequest(f"{printable(self.path)!r} {error}", field="path") from error
        return LayoutPath.parse(placement.path), placement.original
