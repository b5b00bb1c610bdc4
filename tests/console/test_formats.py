# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish.v1.search_pb2 import Hit
from blemish_console.formats import item_title


@pytest.mark.parametrize(
    ("item", "title"),
    [
        (Hit(item="items/0123456789", name="17.png", camera="left"), "17.png"),
        (Hit(dataset="datasets/tile", path="test/oil/0.png"), "tile: test/oil/0.png"),
        (Hit(dataset="datasets/tile", path="test/oil/0.png", original_path="o/a b.png"), "tile: o/a b.png"),
        (Hit(item="items/0123456789", camera="left"), "01234567"),
    ],
)
def test_title_is_the_best_name_of_an_item(item: Hit, title: str) -> None:
    assert item_title(item) == title
