# SPDX-License-Identifier: Apache-2.0
"""The comparison of good test images with held-out ones: its false alarms and its power."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Image, ReadImage
from blemish_core.evaluation.good_shift import find_shift
from blemish_core.evaluation.higher_scores import is_higher

Generator = np.random.Generator
SEED = 20


def calibrated(scores: Sequence[float], target: float = 0.05) -> Calibration:
    return Calibration.of(scores, scores, target)


def warned_share(held_out: int, tested: int, draw: Callable[[Generator, int], list[float]]) -> float:
    """Return how often test scores from ``draw`` count as higher than normally distributed ones."""
    random = np.random.default_rng(SEED)
    print("seed", SEED)
    trials = 300
    return float(
        np.mean(
            [
                is_higher(calibrated(random.normal(size=held_out).tolist()), draw(random, tested))
                for _ in range(trials)
            ]
        )
    )


def same(random: Generator, count: int) -> list[float]:
    return list(random.normal(size=count))


def shifted(random: Generator, count: int) -> list[float]:
    return list(random.normal(1.2, size=count))


def a_quarter_odd(random: Generator, count: int) -> list[float]:
    scores = random.normal(size=count)
    scores[: count // 4] += 6
    return list(scores)


@pytest.mark.parametrize(("held_out", "tested"), [(4, 60), (19, 40), (60, 200), (150, 12)])
def test_equal_good_images_are_rarely_called_higher(held_out: int, tested: int) -> None:
    # 300 trials at 1 % exceed 3.4 % with probability 3e-4.
    assert warned_share(held_out, tested, same) <= 0.034


@pytest.mark.parametrize("draw", [shifted, a_quarter_odd])
@pytest.mark.parametrize(("held_out", "tested"), [(30, 60), (60, 200)])
def test_higher_good_images_are_noticed(
    held_out: int, tested: int, draw: Callable[[Generator, int], list[float]]
) -> None:
    assert warned_share(held_out, tested, draw) > 0.9


def test_few_images_are_no_evidence() -> None:
    assert not is_higher(calibrated([1.0, 2.0]), [5.0, 6.0, 7.0])
    assert not is_higher(calibrated([1.0, 2.0]), [])


def test_lower_good_images_are_not_called_higher() -> None:
    assert not is_higher(calibrated([float(number) for number in range(10, 40)]), [1.0] * 50)


def test_fixed_threshold_below_all_scores_is_no_evidence() -> None:
    scores = [float(number) for number in range(10, 40)]
    assert not is_higher(calibrated(scores).at_threshold(0.0), scores)


def test_shift_names_rejected_images_and_expected_rate() -> None:
    calibration = calibrated([float(number) for number in range(100)])
    shift = find_shift(calibration, [200.0] * 12 + [50.0] * 8, readers(range(20)))
    assert shift is not None
    assert (shift.images, shift.rejected, shift.expected_rate) == (20, 12, 0.05)
    assert shift.warning().startswith(
        "good test images score higher than held-out ones: 12 of 20 are rejected, and 5.0% were expected; "
    )


def test_copies_of_one_odd_image_are_no_evidence() -> None:
    calibration = calibrated([float(number) for number in range(100)])
    scores = [200.0] * 12 + [50.0] * 8
    assert find_shift(calibration, scores, readers([0] * 12 + list(range(1, 9)))) is None


def test_images_are_not_read_without_higher_scores() -> None:
    def unreadable() -> Image:
        raise AssertionError("an image was read")

    calibration = calibrated([float(number) for number in range(100)])
    assert find_shift(calibration, [50.0] * 20, [unreadable] * 20) is None


def readers(pieces: Sequence[int]) -> list[ReadImage]:
    return [partial(texture, piece) for piece in pieces]


def texture(piece: int) -> Image:
    """Return an image of a piece, (64, 64, 3)."""
    return np.random.default_rng(piece).integers(0, 256, (64, 64, 3), dtype=np.uint8)
