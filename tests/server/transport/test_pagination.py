# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.platform.errors import InvalidRequest
from blemish_server.transport.pagination import Page


def test_token_selects_the_next_page() -> None:
    first = Page.parse("jobs", 0, "")
    assert (first.after, first.size) == ("", 100)
    assert Page.parse("jobs", 5, first.token("abc")) == Page("jobs", "abc", 5)


@pytest.mark.parametrize(
    ("size", "token"), [(-1, ""), (1001, ""), (5, "rubbish"), (5, "Zm9v"), (5, "\xff")]
)
def test_size_out_of_range_or_malformed_token_is_rejected(size: int, token: str) -> None:
    with pytest.raises(InvalidRequest):
        Page.parse("jobs", size, token)


def test_token_of_another_listing_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="not a token of this listing"):
        Page.parse("jobs", 5, Page("models", "", 5).token("tile"))


def test_page_is_cut_from_a_listing_with_a_token_if_there_are_more() -> None:
    page = Page.parse("jobs", 2, "")
    entries, token = page.cut(["a", "b", "c"], str.upper)
    assert (entries, Page.parse("jobs", 2, token).after) == (["a", "b"], "B")
    assert page.cut(["a", "b"], str.upper) == (["a", "b"], "")
    assert page.cut([], str.upper) == ([], "")
