# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta, timezone

import pytest

from blemish_client.cli.file_names import file_name_part, file_time


@pytest.mark.parametrize(
    ("text", "part"),
    [("Linie 2/ü", "Linie-2-ü"), ("../..", "none"), ("\x1b", "none"), ("線" * 99, "線" * 21)],
)
def test_any_text_is_part_of_a_file_name(text: str, part: str) -> None:
    assert file_name_part(text, "none") == part


def test_time_is_in_utc_without_colons() -> None:
    time = datetime(2026, 12, 1, 1, 2, 3, 4999, timezone(timedelta(hours=2)))
    assert file_time(time) == file_time(time.astimezone(UTC)) == "20261130T230203.004Z"
