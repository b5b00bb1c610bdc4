# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from blemish_client.cli.failures import Failure
from blemish_client.cli.times import local, parse_start, parse_time, with_local_zone


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("where", "sent"),
    [
        ("time >= 2026-12-01T08:00:00", "time >= 2026-12-01T08:00:00+01:00"),
        ("time >= 2026-07-01T08:00", "time >= 2026-07-01T08:00:00+02:00"),
        ("time>=2026-12-01 08:00:00 AND score > 1", "time>=2026-12-01T08:00:00+01:00 AND score > 1"),
        ("(time < '2026-12-01 08:00')", "(time < 2026-12-01T08:00:00+01:00)"),
        ("time > 2026-12-01", "time > 2026-12-01T00:00:00+01:00"),
        ("time > 2026-12-01T08:00:00Z", "time > 2026-12-01T08:00:00+00:00"),
        ("time > 2026-12-01T08:00:00+05:30", "time > 2026-12-01T08:00:00+05:30"),
        ("time > 2026-12-01 08:00 +0530", "time > 2026-12-01T08:00:00+05:30"),
        # The server reports values that are not times.
        ("time > 2026-02-30", "time > 2026-02-30"),
        ("time > yesterday", "time > yesterday"),
        ("camera = 'time > 2026-12-01'", "camera = 'time > 2026-12-01'"),
        (r"camera = 'it\'s time > 2026-12-01'", r"camera = 'it\'s time > 2026-12-01'"),
        ("label_time > 2026-12-01", "label_time > 2026-12-01"),
        ("", ""),
    ],
)
def test_times_of_filters_get_the_local_zone(where: str, sent: str) -> None:
    assert with_local_zone(where) == sent


def test_printed_time_can_be_typed_in_a_filter() -> None:
    moment = datetime(2026, 12, 1, 7, 0, 5, tzinfo=UTC)
    assert local(moment) == "2026-12-01T08:00:05+01:00"
    assert with_local_zone(f"time >= {local(moment)}") == f"time >= {local(moment)}"
    assert parse_time(local(moment), "--since") == moment


def test_ages_and_local_times_of_options() -> None:
    now = datetime.now(UTC)
    for text, age in (
        ("8h", timedelta(hours=8)),
        ("30min", timedelta(minutes=30)),
        ("1.5 h", timedelta(hours=1.5)),
    ):
        parsed = parse_time(text, "--since")
        assert parsed is not None
        assert abs(now - age - parsed) < timedelta(seconds=5)
    assert parse_time("2026-12-01T08:00", "--since") == datetime(2026, 12, 1, 7, tzinfo=UTC)
    today = parse_time("06:00", "--since")
    assert today is not None
    assert today.astimezone().strftime("%d %H:%M") == now.astimezone().strftime("%d ") + "06:00"
    assert parse_time("", "--since") is None
    for unreadable in ("soon", "8 fortnights", "25:00"):
        with pytest.raises(Failure, match="--since is"):
            parse_time(unreadable, "--since")


def test_start_at_a_time_of_day_that_is_still_to_come_is_yesterday() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    clock = f"{later.astimezone():%H:%M:%S}"
    if parse_time(clock, "--since") > datetime.now(UTC):  # type: ignore[operator]
        start = parse_start(clock, "--since")
        assert start is not None
        assert timedelta(hours=22) < datetime.now(UTC) - start < timedelta(hours=26)
    assert parse_start("00:00", "--since") == parse_time("00:00", "--since")
    assert parse_start("2999-01-01", "--since") == parse_time("2999-01-01", "--since")
    assert parse_start("", "--since") is None
