# SPDX-License-Identifier: Apache-2.0
"""Pagination of listings (AIP-158): a token contains the last name of the page before."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from blemish_core.platform.errors import InvalidRequest

_DEFAULT_SIZE, _MAX_SIZE = 100, 1000
_MAX_DIGITS = 9

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Page:
    """The part of a listing that a request selects."""

    kind: str
    """Listing for which a token is valid."""
    after: str
    """Name after which the page begins, empty for the first page."""
    size: int

    @classmethod
    def parse(cls, kind: str, page_size: int, page_token: str) -> "Page":
        """Return the page that a request selects.

        Raises:
            InvalidRequest: if the size is out of range, or the token is not one of this listing.
        """
        if not 0 <= page_size <= _MAX_SIZE:
            raise InvalidRequest(f"page_size is {page_size}; use 1 to {_MAX_SIZE}", field="page_size")
        after = ""
        if page_token:
            try:
                token_kind, _, after = urlsafe_b64decode(page_token.encode()).decode().partition(":")
            except ValueError:
                token_kind = ""
            if token_kind != kind:
                raise not_a_token()
        return cls(kind, after, page_size or _DEFAULT_SIZE)

    def number(self) -> int:
        """Return the number after which the page begins, 0 for the first page.

        Raises:
            InvalidRequest: if the token contains anything else.
        """
        if self.after and not (self.after.isascii() and self.after.isdecimal()):
            raise not_a_token()
        if len(self.after) > _MAX_DIGITS:
            raise not_a_token()
        return int(self.after or 0)

    def item(self) -> UUID | None:
        """Return the id of the item after which the page begins, None for the first page.

        Raises:
            InvalidRequest: if the token contains anything else.
        """
        try:
            return UUID(self.after) if self.after else None
        except ValueError as error:
            raise not_a_token() from error

    def token(self, last: str) -> str:
        """Return the token of the page after the one that ends with ``last``."""
        return urlsafe_b64encode(f"{self.kind}:{last}".encode()).decode()

    def cut(self, found: Sequence[Entry], name: Callable[[Entry], str]) -> tuple[Sequence[Entry], str]:
        """Return the entries of the page and the token of the next page, empty at the end.

        Args:
            found: entries after ``after``, with at least one more than ``size`` if there are more.
            name: the name of an entry, by which the listing is sorted.
        """
        entries = found[: self.size]
        return entries, self.token(name(entries[-1])) if len(found) > self.size else ""


def not_a_token() -> InvalidRequest:
    """Return the error for a token of another listing, or a forged one."""
    return InvalidRequest(
        "page_token is not a token of this listing; start again without one", field="page_token"
    )
