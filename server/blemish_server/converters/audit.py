# SPDX-License-Identifier: Apache-2.0
"""Messages of AuditService."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1 import audit_pb2 as pb
from blemish.v1.access_pb2 import ROLE_UNSPECIFIED
from blemish_core.platform.errors import InvalidRequest
from blemish_server.audit.entry import AuditEntry, AuditFilter, Stage
from blemish_server.audit.log import Position
from blemish_server.auth.access import Role
from blemish_server.converters.server import ROLES
from blemish_server.converters.values import timestamp_to_proto

_STAGES = {Stage.BEGUN: pb.AUDIT_STAGE_BEGUN, Stage.ENDED: pb.AUDIT_STAGE_ENDED}
_ROLES = {role.word: ROLES.to_proto(role) for role in Role}


def audit_entry_to_proto(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        id=entry.id,
        stage=_STAGES[entry.stage],
        time=timestamp_to_proto(entry.time),
        end_time=timestamp_to_proto(entry.end_time),
        caller=entry.caller,
        role=_ROLES.get(entry.role, ROLE_UNSPECIFIED),
        peer=entry.peer,
        request_id=entry.request_id,
        server=entry.server,
        action=entry.action,
        resources=entry.resources,
        details=entry.details,
        code=entry.code,
        message=entry.message,
        suppressed=entry.suppressed,
    )


def parse_audit_filter(request: pb.ListAuditEntriesRequest) -> AuditFilter:
    """Return the conditions of a request.

    Raises:
        InvalidRequest: if a time is out of range.
    """
    return AuditFilter(
        caller=request.caller,
        action=request.action,
        resource=request.resource.rstrip("/"),
        start=_time(request.start_time, "start_time") if request.HasField("start_time") else None,
        end=_time(request.end_time, "end_time") if request.HasField("end_time") else None,
        only_failed=request.only_failed,
    )


def position_to_text(position: Position) -> str:
    return f"{position.file}-{position.offset}"


def parse_position(text: str) -> Position:
    """Return the position in a page token.

    Raises:
        InvalidRequest: if it is malformed.
    """
    file, _, offset = text.partition("-")
    if not (file.isdecimal() and offset.isdecimal() and len(text) < 40):
        raise InvalidRequest(
            "page_token is not a token of this listing; start again without one", field="page_token"
        )
    return Position(int(file), int(offset))


def _time(message: Timestamp, field: str) -> datetime:
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{field} is not a valid time: {error}; use 0001 to 9999", field=field
        ) from error
