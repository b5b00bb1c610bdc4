# SPDX-License-Identifier: Apache-2.0
"""Entries of the audit log."""

from datetime import UTC, datetime
from typing import Any

from blemish_server.audit.entry import AuditEntry, Stage

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def make_entry(id: str = "1", **fields: Any) -> AuditEntry:
    """Return the entry of a promotion that ended well."""
    return AuditEntry(
        **{
            "id": id,
            "stage": Stage.ENDED,
            "time": NOON,
            "end_time": NOON,
            "caller": "line-office",
            "role": "operator",
            "peer": "ipv4:10.0.0.7:51234",
            "request_id": "r1",
            "server": "line-1:77",
            "action": "PromoteModel",
            "resources": ("models/tile/versions/3",),
            **fields,
        }
    )
