# SPDX-License-Identifier: Apache-2.0
"""AuditService: the audit log, for people who may change models."""

import asyncio
from typing import Any

import grpc.aio

from blemish.v1 import audit_pb2 as pb
from blemish.v1.audit_pb2_grpc import AuditServiceServicer
from blemish_core.platform.errors import Unavailable
from blemish_server.audit.log import AuditLog
from blemish_server.converters.audit import (
    audit_entry_to_proto,
    parse_audit_filter,
    parse_position,
    position_to_text,
)
from blemish_server.transport.pagination import Page


class AuditServicer(AuditServiceServicer):
    """AuditService on the audit log of the store."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def ListAuditEntries(  # noqa: N802
        self, request: pb.ListAuditEntriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListAuditEntriesResponse:
        page, wanted = (
            Page.parse("audit", request.page_size, request.page_token),
            parse_audit_filter(request),
        )
        before = parse_position(page.after) if page.after else None
        try:
            entries, position = await asyncio.to_thread(self._log.page, wanted, page.size, before)
        except OSError as error:
            raise Unavailable(
                f"the audit log in {self._log.folder} cannot be read: {error.strerror}; check its "
                "permissions",
                dependency="audit log",
            ) from error
        return pb.ListAuditEntriesResponse(
            entries=map(audit_entry_to_proto, entries),
            next_page_token=page.token(position_to_text(position)) if position is not None else "",
        )
