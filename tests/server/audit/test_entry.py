# SPDX-License-Identifier: Apache-2.0
from datetime import timedelta

import pytest
from tests.support.audit import NOON, make_entry

from blemish_server.audit.entry import AuditEntry, AuditFilter, host_of


def test_entry_survives_its_line() -> None:
    entry = make_entry(details={"comment": "ü\n\x1b[31m"}, code=7, message="no", suppressed=3)
    line = entry.to_line()
    assert AuditEntry.parse(line) == entry
    assert line.count(b"\n") == 1 and b"\x1b" not in line


def test_entry_of_a_newer_server_is_read() -> None:
    line = make_entry().to_line().replace(b'{"id"', b'{"tenant":"a","id"')
    assert AuditEntry.parse(line) == make_entry()


@pytest.mark.parametrize("line", [b"", b"{", b"\0" * 40, b"[]", b'{"id":"1"}', make_entry().to_line()[:-9]])
def test_incomplete_line_is_no_entry(line: bytes) -> None:
    assert AuditEntry.parse(line) is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (AuditFilter(), True),
        (AuditFilter(caller="line-office", action="PromoteModel"), True),
        (AuditFilter(caller="line"), False),
        (AuditFilter(action="DeleteModel"), False),
        (AuditFilter(resource="models/tile"), True),
        (AuditFilter(resource="models/tile/versions/3"), True),
        (AuditFilter(resource="models/til"), False),
        (AuditFilter(resource="models/tile/versions/31"), False),
        (AuditFilter(start=NOON, end=NOON + timedelta(seconds=1)), True),
        (AuditFilter(end=NOON), False),
        (AuditFilter(start=NOON + timedelta(microseconds=1)), False),
        (AuditFilter(only_failed=True), False),
    ],
)
def test_filter_matches_by_each_condition(wanted: AuditFilter, expected: bool) -> None:
    assert wanted.matches(make_entry()) is expected


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:%5B::1%5D:51234", "::1"),
        ("unix:", "unix"),
        ("unix:/run/blemish.sock", "unix"),
        ("", "unknown"),
    ],
)
def test_host_has_no_port(peer: str, host: str) -> None:
    assert host_of(peer) == host
