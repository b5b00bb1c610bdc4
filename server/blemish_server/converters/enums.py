# SPDX-License-Identifier: Apache-2.0
"""Mappings between the domain's enums and those of the contract."""

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from blemish_core.platform.errors import InvalidRequest

Domain = TypeVar("Domain", bound=Enum)
Message = TypeVar("Message", bound=int)


class EnumMapping(Generic[Domain, Message]):
    """A one-to-one mapping between the members of a domain enum and their numbers in the contract."""

    def __init__(self, numbers: Mapping[Domain, Message]) -> None:
        self._numbers = dict(numbers)
        self._members = {number: member for member, number in numbers.items()}

    def to_proto(self, member: Domain) -> Message:
        return self._numbers[member]

    def parse(self, number: Message, field: str) -> Domain:
        """Return the member that a request's ``field`` holds.

        Raises:
            InvalidRequest: if the number is unspecified or unknown to this server.
        """
        if number not in self._members:
            *others, last = (member.name for member in self._numbers)
            raise InvalidRequest(f"{field} is {number}; use {', '.join(others)} or {last}", field=field)
        return self._members[number]
