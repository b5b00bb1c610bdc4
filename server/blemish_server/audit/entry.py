# SPDX-License-Identifier: Apache-2.0
"""Entries of the audit log, and the conditions that select them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import unquote

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError


class Stage(StrEnum):
    """The stages of a call that have an entry."""

    BEGUN = "begun"
    """The change is about to be made."""
    ENDED = "ended"
    """The call has ended, or was denied."""


class AuditEntry(BaseModel):
    """A call at one of its stages: one line of the log."""

    # Newer servers of the same store may write further fields.
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    stage: Stage
    time: AwareDatetime
    """Begin of the call."""
    end_time: AwareDatetime | None = None
    caller: str
    """Name of the caller, or the host of the peer if the caller has none."""
    role: str = ""
    """Role of the caller as the access file spells it, empty for a caller without a name."""
    peer: str
    """Address of the peer, as gRPC reports it."""
    request_id: str
    server: str
    """Process that took the call, as host:pid."""
    action: str
    """Name of the RPC."""
    resources: tuple[str, ...] = ()
    details: Mapping[str, str] = {}
    code: int = 0
    """Number of the gRPC status."""
    message: str = ""
    suppressed: int = 0
    """Number of equal denied calls without an entry of their own."""

    @property
    def written(self) -> datetime:
        """The time at which the entry was written."""
        return self.end_time or self.time

    def to_line(self) -> bytes:
        """Return the entry as a line of JSON in ASCII.

        Texts of callers cannot begin another line, because control characters are escaped.
        """
        return self.model_dump_json(exclude_defaults=True, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "AuditEntry | None":
        """Return the entry of a line, or None for a line that a crash left incomplete."""
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            return None


@dataclass(frozen=True)
class AuditFilter:
    """The conditions that entries must match. Empty ones match every entry."""

    caller: str = ""
    action: str = ""
    resource: str = ""
    """A resource, or one that contains it."""
    start: datetime | None = None
    """Earliest begin of a call."""
    end: datetime | None = None
    """Time before which a call began."""
    only_failed: bool = False

    def matches(self, entry: AuditEntry) -> bool:
        """Return whether an entry matches all conditions."""
        return (
            self.caller in ("", entry.caller)
            and self.action in ("", entry.action)
            and (not self.resource or any(self._contains(each) for each in entry.resources))
            and (self.start is None or entry.time >= self.start)
            and (self.end is None or entry.time < self.end)
            and (not self.only_failed or entry.code != 0)
        )

    def _contains(self, resource: str) -> bool:
        return resource == self.resource or resource.startswith((f"{self.resource}/", f"{self.resource}@"))


def host_of(peer: str) -> str:
    """Return the host of a peer's address, without the port: ``10.0.0.7`` for ``ipv4:10.0.0.7:51234``."""
    scheme, _, address = unquote(peer).partition(":")
    if scheme in ("ipv4", "ipv6"):
        return address.rpartition(":")[0].strip("[]")
    return scheme or "unknown"
