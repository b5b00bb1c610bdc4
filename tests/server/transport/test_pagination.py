# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.platform.errors import InvalidRequest
from blemish_server.transport.pagination import Page


def test_a_token_leads_to_the_next_page() -> None:
    first = Page.parse("jobs", 0, "")
    assert (first.after, first.size) == ("", 100)
    assert Page.parse("jobs", 5, first.token("abc")) == Page("jobs", "abc", 5)


@pytest.mark.parametrize(
    ("size", "token"), [(-1, ""), (1001, ""), (5, "rubbish"), (5, "Zm9v"), (5, "\xff")]
)
def test_rubbish_is_refused(size: int, token: str) -> None:
    with pytest.raises(InvalidRequest):
        Page.parse("jobs", size, token)


def test_a_token_of_another_listing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not one that this listing gave"):
        Page.parse("jobs", 5, Page("models", "", 5).token("tile"))
