# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from blemish_local.qdrant import groups
from blemish_local.qdrant.groups import GroupId


@dataclass
class Point:
    id: int
    payload: dict[str, Any]


class Ranking:
    """Points in order, as an engine would rank them, and what was asked of it."""

    def __init__(self, *values: Any) -> None:
        self.points = [Point(number, {"g": value}) for number, value in enumerate(values)]
        self.asked: list[tuple[int, Sequence[GroupId] | None]] = []

    def __call__(self, limit: int, among: Sequence[GroupId] | None) -> Any:
        self.asked.append((limit, among))
        fit = [point for point in self.points if among is None or point.payload["g"] in among]
        return fit[:limit]

    def grouped(self, limit: int, size: int) -> dict[GroupId, list[Any]]:
        found = groups.gathered(self, "g", limit, size)
        return {group: [point.id for point in points] for group, points in found.items()}


def test_no_more_is_ranked_than_it_takes() -> None:
    ranking = Ranking("a", "b", "a", "b", *["c"] * 1000)
    assert ranking.grouped(2, 2) == {"a": [0, 2], "b": [1, 3]}
    assert ranking.asked == [(4, None)]


def test_a_ranking_is_read_on_until_there_are_groups_enough() -> None:
    ranking = Ranking(*["a"] * 20, "b", "a", "b", "c")
    assert ranking.grouped(2, 2) == {"a": [0, 1], "b": [20, 22]}
    assert [limit for limit, _ in ranking.asked] == [4, 8, 16, 32]


def test_small_groups_are_filled_without_reading_the_rest() -> None:
    ranking = Ranking("a", "b", *["c"] * 10_000, "a")
    assert ranking.grouped(2, 3) == {"a": [0, 10_002], "b": [1]}
    assert ranking.asked == [(6, None), (12, ["a", "b"])]


@pytest.mark.parametrize("value", [None, True, 1.0, {"x": 1}, [], [1, True], ["a", None]])
def test_what_cannot_name_a_group_keeps_its_point_out(value: Any) -> None:
    assert Ranking(value, "a").grouped(3, 3) == {"a": [1]}


def test_a_list_puts_its_point_in_each_group_once() -> None:
    assert Ranking(["a", 1, "a"], "1", 1).grouped(5, 5) == {"a": [0], 1: [0, 2], "1": [1]}


def test_there_may_be_no_points() -> None:
    assert Ranking().grouped(5, 5) == {}
