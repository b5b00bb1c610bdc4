# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import FakeServer

from blemish.v1.access_pb2 import ROLE_OPERATOR
from blemish.v1.audit_pb2 import AUDIT_STAGE_BEGUN, AUDIT_STAGE_ENDED, AuditEntry


def entry(id: str, *, ended: bool = True, **fields: Any) -> AuditEntry:
    made = AuditEntry(
        id=id,
        stage=AUDIT_STAGE_ENDED if ended else AUDIT_STAGE_BEGUN,
        caller="line-office",
        role=ROLE_OPERATOR,
        action="PromoteModel",
        resources=["models/tile/versions/3"],
        **fields,
    )
    made.time.GetCurrentTime()
    if ended:
        made.end_time.GetCurrentTime()
    return made


def test_each_call_has_one_line(run: Run, fake: FakeServer) -> None:
    fake.audit_entries = [
        entry("3", ended=False),
        entry("2", code=9, message="in production"),
        entry("1", details={"force": "true"}),
        entry("2", ended=False),
        entry("1", ended=False),
    ]
    found = json_lines(run("audit", "--json"))
    assert [each["id"] for each in found] == ["3", "2", "1"]
    assert found[1]["message"] == "in production"
    shown = [line for line in run("audit").stdout.splitlines() if "PromoteModel" in line]
    assert "not ended" in shown[0]
    assert "failed-precondition" in shown[1]
    assert "line-office (operator)" in shown[2] and "force=true" in shown[2] and " ok " in shown[2]


def test_filters_are_sent(run: Run, fake: FakeServer) -> None:
    options = ("--caller", "mes", "--action", "promote-model", "--resource", "models/tile", "--failed")
    result = run("audit", *options, "--since", "2d", "--until", "2026-12-01T08:00:00+01:00")
    assert result.exit_code == 0 and "no calls" in result.stdout
    (request,) = fake.requests["ListAuditEntries"]
    assert (request.caller, request.action, request.resource) == ("mes", "PromoteModel", "models/tile")
    assert request.only_failed
    assert request.end_time.ToDatetime(UTC) == datetime(2026, 12, 1, 7, tzinfo=UTC)
    since = datetime.now(UTC) - request.start_time.ToDatetime(UTC)
    assert abs(since - timedelta(days=2)) < timedelta(minutes=1)


@pytest.mark.parametrize("time", ["yesterday", "7w", "2026-13-01", "99999999999d"])
def test_unreadable_time_is_refused(run: Run, time: str) -> None:
    result = run("audit", "--since", time)
    assert result.exit_code == 2
    assert "use a date, a time such as" in result.stderr


def test_limit_ends_the_listing(run: Run, fake: FakeServer) -> None:
    fake.audit_entries = [entry(str(number)) for number in range(9)]
    assert len(json_lines(run("audit", "--json", "-n", "3"))) == 3
    assert len(fake.requests["ListAuditEntries"]) == 2


def test_texts_of_callers_cannot_control_the_terminal(run: Run, fake: FakeServer) -> None:
    fake.audit_entries = [entry("1", details={"comment": "\x1b[31m[red]x"}, suppressed=4)]
    shown = run("audit").stdout
    assert "\x1b" not in shown
    assert "comment=?[31m[red]x" in shown
    assert "and 4 more like this within a minute" in shown
