# SPDX-License-Identifier: Apache-2.0
import random
from dataclasses import dataclass
from typing import Any

import pytest

from blemish_local.qdrant.translation import groups
from blemish_local.qdrant.translation.groups import Among, GroupId


@dataclass
class Point:
    id: int
    payload: dict[str, Any]


class Ranking:
    """Points in order, as an engine would rank them, and what was asked of it."""

    def __init__(self, *values: Any) -> None:
        self.points = [Point(number, {"g": value}) for number, value in enumerate(values)]
        self.asked: list[tuple[int, Among]] = []

    def __call__(self, limit: int, among: Among) -> Any:
        self.asked.append((limit, among))
        return [point for point in self.points if fits(point.payload["g"], among)][:limit]

    def grouped(self, limit: int, size: int) -> dict[GroupId, list[Any]]:
        found = groups.gathered(self, "g", limit, size)
        return {group: [point.id for point in points] for group, points in found.items()}


def fits(value: Any, among: Among) -> bool:
    values = value if isinstance(value, list) else [value]
    if among.only:
        return any(each in among.only for each in values)
    return not among.beyond or any(each not in among.beyond for each in values)


def test_no_more_is_ranked_than_it_takes() -> None:
    ranking = Ranking("a", "b", "a", "b", *["c"] * 1000)
    assert ranking.grouped(2, 2) == {"a": [0, 2], "b": [1, 3]}
    assert ranking.asked == [(4, Among())]


def test_a_ranking_is_read_on_until_there_are_groups_enough() -> None:
    ranking = Ranking(*["a"] * 20, "b", "a", "b", "c")
    assert ranking.grouped(2, 2) == {"a": [0, 1], "b": [20, 22]}
    assert ranking.asked == [(4, Among()), (8, Among(beyond=["a"]))]


def test_small_groups_are_filled_without_reading_the_rest() -> None:
    ranking = Ranking("a", "b", *["c"] * 10_000, "a")
    assert ranking.grouped(2, 3) == {"a": [0, 10_002], "b": [1]}
    assert ranking.asked == [(6, Among()), (12, Among(only=["a", "b"]))]


def test_fewer_groups_than_asked_for_do_not_mean_to_read_all() -> None:
    ranking = Ranking(*["a", "b", "c"] * 10_000)
    assert ranking.grouped(10, 2) == {"a": [0, 3], "b": [1, 4], "c": [2, 5]}
    assert ranking.asked == [(20, Among()), (40, Among(beyond=["a", "b", "c"]))]


def test_random_groups_are_those_of_the_whole_ranking() -> None:
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
        found = Ranking(*values).grouped(limit, size)
        assert [*found.items()] == [*expected.items()], f"seed {seed}"


@pytest.mark.parametrize("value", [None, True, 1.0, {"x": 1}, [], [1, True], ["a", None]])
def test_what_cannot_name_a_group_keeps_its_point_out(value: Any) -> None:
    assert Ranking(value, "a").grouped(3, 3) == {"a": [1]}


def test_a_list_puts_its_point_in_each_group_once() -> None:
    assert Ranking(["a", 1, "a"], "1", 1).grouped(5, 5) == {"a": [0], 1: [0, 2], "1": [1]}


def test_there_may_be_no_points() -> None:
    assert Ranking().grouped(5, 5) == {}
