# SPDX-License-Identifier: Apache-2.0
import random
from dataclasses import dataclass
from typing import Any

import pytest

from blemish_local.qdrant.translation import groups
from blemish_local.qdrant.translation.groups import GroupFilter, GroupId


@dataclass
class Point:
    """A point of a ranking."""

    id: int
    payload: dict[str, Any]


class FakeEngineRanking:
    """Points in the order of an engine's ranking, and the calls that it received."""

    def __init__(self, *values: Any) -> None:
        self.points = [Point(number, {"g": value}) for number, value in enumerate(values)]
        self.calls: list[tuple[int, GroupFilter]] = []

    def __call__(self, limit: int, among: GroupFilter) -> Any:
        self.calls.append((limit, among))
        return [point for point in self.points if fits(point.payload["g"], among)][:limit]

    def grouped(self, limit: int, size: int) -> dict[GroupId, list[Any]]:
        found = groups.gather(self, "g", limit, size)
        return {group: [point.id for point in points] for group, points in found.items()}


def fits(value: Any, among: GroupFilter) -> bool:
    values = value if isinstance(value, list) else [value]
    if among.only:
        return any(each in among.only for each in values)
    return not among.without or any(each not in among.without for each in values)


def test_complete_groups_end_the_ranking() -> None:
    ranking = FakeEngineRanking("a", "b", "a", "b", *["c"] * 1000)
    assert ranking.grouped(2, 2) == {"a": [0, 2], "b": [1, 3]}
    assert ranking.calls == [(4, GroupFilter())]


def test_ranking_continues_until_there_are_enough_groups() -> None:
    ranking = FakeEngineRanking(*["a"] * 20, "b", "a", "b", "c")
    assert ranking.grouped(2, 2) == {"a": [0, 1], "b": [20, 22]}
    assert ranking.calls == [(4, GroupFilter()), (8, GroupFilter(without=["a"]))]


def test_small_group_does_not_require_the_whole_ranking() -> None:
    ranking = FakeEngineRanking("a", "b", *["c"] * 10_000, "a")
    assert ranking.grouped(2, 3) == {"a": [0, 10_002], "b": [1]}
    assert ranking.calls == [(6, GroupFilter()), (12, GroupFilter(only=["a", "b"]))]


def test_few_groups_do_not_require_the_whole_ranking() -> None:
    ranking = FakeEngineRanking(*["a", "b", "c"] * 10_000)
    assert ranking.grouped(10, 2) == {"a": [0, 3], "b": [1, 4], "c": [2, 5]}
    assert ranking.calls == [(20, GroupFilter()), (40, GroupFilter(without=["a", "b", "c"]))]


def test_random_groups_equal_those_of_the_whole_ranking() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(300):
        kinds = draw.choice([1, 3, 40])
        values = [
            [draw.randrange(kinds) for _ in range(draw.randrange(3))]
            if draw.random() < 0.3
            else draw.randrange(kinds)
            for _ in range(draw.randrange(120))
        ]
        limit, size = draw.randint(1, 9), draw.randint(1, 9)
        whole: dict[GroupId, list[int]] = {}
        for number, value in enumerate(values):
            for group in dict.fromkeys(value if isinstance(value, list) else [value]):
                whole.setdefault(group, []).append(number)
        expected = {group: whole[group][:size] for group in [*whole][:limit]}
        found = FakeEngineRanking(*values).grouped(limit, size)
        assert [*found.items()] == [*expected.items()], f"seed {seed}"


@pytest.mark.parametrize("value", [None, True, 1.0, {"x": 1}, [], [1, True], ["a", None]])
def test_point_with_another_value_is_in_no_group(value: Any) -> None:
    assert FakeEngineRanking(value, "a").grouped(3, 3) == {"a": [1]}


def test_list_puts_its_point_in_each_group_once() -> None:
    assert FakeEngineRanking(["a", 1, "a"], "1", 1).grouped(5, 5) == {"a": [0], 1: [0, 2], "1": [1]}


def test_no_points_give_no_groups() -> None:
    assert FakeEngineRanking().grouped(5, 5) == {}
