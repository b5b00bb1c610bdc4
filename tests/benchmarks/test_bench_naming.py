# SPDX-License-Identifier: Apache-2.0
"""The draws of the benchmark of defect classes."""

import numpy as np
import pytest
from tests.benchmarks.bench_naming import EmbeddedImages, draw, part_numbers


def images(parts: list[int]) -> EmbeddedImages:
    """Return two classes of images of these parts each, every second one detected."""
    count = 2 * len(parts)
    return EmbeddedImages(
        "set",
        np.eye(count, dtype=np.float32),
        np.array(["crack"] * len(parts) + ["dent"] * len(parts)),
        np.array([*parts, *(100 + part for part in parts)]),
        np.arange(count) % 2 == 0,
    )


def test_photographs_with_close_numbers_show_one_part() -> None:
    stems = ["exp1_num_900", "exp2_num_100", "exp1_num_80", "exp6_num_1040", "exp1_num_1300"]
    first, second, third, fourth, fifth = part_numbers(stems)
    assert (first, second) == (fourth, third)
    assert len({first, second, fifth}) == 3


def test_files_with_other_names_show_one_part_each() -> None:
    assert part_numbers(["a", "exp1_num_5", "000"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_no_part_is_both_labelled_and_named(seed: int) -> None:
    made = images([0, 0, 0, 1, 1, 1, 2, 2, 2])
    drawn = draw(made, ["crack", "dent"], 4, np.random.default_rng(seed))
    assert not set(made.parts[drawn.labelled]) & set(made.parts[drawn.queries])
    assert sorted(made.classes[drawn.labelled]) == ["crack"] * 4 + ["dent"] * 4
    assert len(set(made.parts[drawn.labelled])) == 4, "labels are spread over the parts"
    assert len(drawn.queries) >= 2
    assert made.detected[drawn.queries].all()


def test_images_of_parts_of_their_own_are_labelled_or_named() -> None:
    made = images([0, 1, 2, 3])
    drawn = draw(made, ["crack"], 2, np.random.default_rng(0))
    left = set(made.of_class("crack")) - set(drawn.labelled)
    assert set(drawn.queries) == {row for row in left if made.detected[row]}
