# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
from tests.support.audit import NOON, make_entry

from blemish.v1 import audit_pb2 as pb
from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish_core.platform.errors import InvalidRequest
from blemish_server.audit.log import AuditLog
from blemish_server.servicers.audit import AuditServicer
from blemish_server.transport.pagination import Page

CONTEXT: Any = None


@pytest.fixture
def servicer(tmp_path: Path) -> AuditServicer:
    log = AuditLog(tmp_path)
    log.append([make_entry(str(number), details={"force": "true"}).to_line() for number in range(5)])
    return AuditServicer(log)


async def test_entry_has_all_fields(servicer: AuditServicer) -> None:
    answer = await servicer.ListAuditEntries(pb.ListAuditEntriesRequest(page_size=1), CONTEXT)
    expected = pb.AuditEntry(
        id="4",
        stage=pb.AUDIT_STAGE_ENDED,
        caller="line-office",
        role=ROLE_OPERATOR,
        peer="ipv4:10.0.0.7:51234",
        request_id="r1",
        server="line-1:77",
        action="PromoteModel",
        resources=["models/tile/versions/3"],
        details={"force": "true"},
    )
    expected.time.FromDatetime(NOON)
    expected.end_time.FromDatetime(NOON)
    assert list(answer.entries) == [expected]


async def test_pages_follow_each_other(servicer: AuditServicer) -> None:
    found, token = [], ""
    for _ in range(10):
        request = pb.ListAuditEntriesRequest(page_size=2, page_token=token, resource="models/tile/")
        answer = await servicer.ListAuditEntries(request, CONTEXT)
        found += [entry.id for entry in answer.entries]
        token = answer.next_page_token
        if not token:
            break
    assert found == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("position", ["1", "1-", "-1", "1-2-3", "a-b", "\u00b2-1", "1" * 50 + "-1"])
async def test_foreign_page_token_is_rejected(servicer: AuditServicer, position: str) -> None:
    token = Page.parse("audit", 1, "").token(position)
    with pytest.raises(InvalidRequest, match="not a token of this listing"):
        await servicer.ListAuditEntries(pb.ListAuditEntriesRequest(page_token=token), CONTEXT)


async def test_time_out_of_range_is_rejected(servicer: AuditServicer) -> None:
    request = pb.ListAuditEntriesRequest()
    request.start_time.seconds = 1 << 60
    with pytest.raises(InvalidRequest, match="start_time is not a valid time"):
        await servicer.ListAuditEntries(request, CONTEXT)
