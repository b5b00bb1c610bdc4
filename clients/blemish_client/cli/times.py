# SPDX-License-Identifier: Apache-2.0
"""Times of options and of filters in the local zone."""

import re
from datetime import UTC, datetime, time, timedelta

from blemish_client.cli.failures import Failure

AGE_HELP = "2026-12-01, 2026-12-01T08:00, 08:00 or 8h"
"""Examples of the times that options take, for their help."""
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d)?", re.ASCII)
# A text in quotes, which stays as it is, or a comparison of the field ``time`` with a time.
_COMPARISON = re.compile(
    r"""
    (?<![\w.])(?P<field>time\s*(?:<=|>=|!=|[=<>:])\s*)
    (?P<quote>["']?)
    (?P<date>\d{4}-\d\d-\d\d)
    (?:[Tt\ ](?P<clock>\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?))?
    \ ?(?P<zone>[Zz]|[-+]\d\d(?::?\d\d)?)?
    (?P=quote)(?=[\s()]|$)
    | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)


def parse_time(text: str, option: str) -> datetime | None:
    """Return the time that an option gives: a date, a time, an hour of today, or an age such as 8h.

    A time without a zone is one of the local zone. An empty text is None.

    Raises:
        Failure: if it is none of them.
    """
    text = text.strip()
    if not text:
        return None
    now = datetime.now(UTC)
    try:
        if age := _AGE.fullmatch(text):
            return now - timedelta(**{_UNITS[age[2]]: float(age[1])})
        if _CLOCK.fullmatch(text):
            today = now.astimezone().date()
            return datetime.combine(today, time.fromisoformat(text.zfill(5))).astimezone(UTC)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Failure(
            f"{option} is {text!r}; use a date, a time such as 2026-12-01T08:00, 08:00 of today, or an age "
            "such as 30m, 12h or 7d"
        ) from None


def parse_start(text: str, option: str) -> datetime | None:
    """Return the time at which something begins, as ``parse_time`` reads it.

    A time of day that is still to come today is that of yesterday: the start of a night shift.

    Raises:
        Failure: if it is not a time.
    """
    start = parse_time(text, option)
    if start is None or start <= datetime.now(UTC) or not _CLOCK.fullmatch(text.strip()):
        return start
    here = start.astimezone()
    return datetime.combine(here.date() - timedelta(days=1), here.time()).astimezone(UTC)


def with_local_zone(where: str) -> str:
    """Return a filter whose times have a zone: those without one get the local zone.

    A date alone is its midnight. A space between date and time is accepted, as in tables. Anything else is
    left for the server to judge.
    """

    def zoned(match: re.Match[str]) -> str:
        if match["field"] is None:
            return match[0]
        zone = (match["zone"] or "").upper()
        zone = zone if len(zone) != 3 else f"{zone}:00"
        try:
            local = datetime.fromisoformat(f"{match['date']}T{match['clock'] or '00:00'}{zone}")
            return match["field"] + local.astimezone(local.tzinfo).isoformat()
        except (ValueError, OverflowError):
            return match[0]

    return _COMPARISON.sub(zoned, where)


def local(moment: datetime) -> str:
    """Return a time to the second with its local zone, as a filter takes it."""
    return moment.astimezone().isoformat(timespec="seconds")
