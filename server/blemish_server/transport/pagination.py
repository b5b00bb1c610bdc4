# SPDX-License-Identifier: Apache-2.0
"""Pages of a listing: a token says after which name the next one begins (AIP-158)."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from blemish_core.platform.errors import InvalidRequest

_DEFAULT, _MOST = 100, 1000


@dataclass(frozen=True)
class Page:
    """The part of a listing that a request asks for."""

    kind: str
    after: str
    size: int

    @classmethod
    def parse(cls, kind: str, page_size: int, page_token: str) -> "Page":
        """Read a request's page.

        Raises:
            InvalidRequest: if the size is out of range or the token is none of ours.
        """
        if not 0 <= page_size <= _MOST:
            raise InvalidRequest(f"page_size is {page_size}, but must be 1 to {_MOST}", field="page_size")
        after = ""
        if page_token:
            try:
                told, _, after = urlsafe_b64decode(page_token.encode()).decode().partition(":")
            except ValueError:
                told = ""
            if told != kind:
                raise InvalidRequest(
                    "page_token is not one that this listing gave; begin again without",
                    field="page_token",
                )
        return cls(kind, after, page_size or _DEFAULT)

    def token(self, last: str) -> str:
        """The token of the page after the one that ends with ``last``."""
        return urlsafe_b64encode(f"{self.kind}:{last}".encode()).decode()
