# SPDX-License-Identifier: Apache-2.0
"""Good images that are far from all others are found by their scores."""

from pathlib import Path

import pytest
from tests.core.models.test_store import publish

from blemish_core.calibration import Calibration
from blemish_core.models.good_images import GoodImage, write_good_images
from blemish_core.models.store import ModelStore
from blemish_core.models.suspects import find_suspects, outstanding_warning, scored_version, suspects_of
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef

ORDINARY = [5 + number / 10 for number in range(30)]


def images(scores: list[float], *, held_out: bool = True) -> list[GoodImage]:
    return [
        GoodImage(path=f"train/good/{number:02}.png", sha256="0" * 64, held_out=held_out, score=score)
        for number, score in enumerate(scores)
    ]


def test_odd_image_is_first_and_its_removal_lowers_the_threshold() -> None:
    scores = [*ORDINARY, 18.1]
    calibration = Calibration.of(scores, scores, 0.01)
    first, second = find_suspects(images(scores), calibration, 2)
    assert (first.image.path, first.rank, first.count) == ("train/good/30.png", 1, 31)
    assert (first.score, first.next_score, first.stands_out) == (18.1, 7.9, True)
    assert first.threshold_without == 7.9
    assert (second.rank, second.stands_out) == (2, False)
    warning = outstanding_warning([first, second], calibration, "tile")
    assert warning is not None
    assert "train/good/30.png (18.1), the next has 7.9; without them it would be 7.9" in warning
    assert "`blemish dataset remove tile PATH`" in warning


def test_two_odd_images_are_found_together() -> None:
    scores = [*ORDINARY, 18.1, 18.2]
    calibration = Calibration.of(scores, scores, 0.01)
    found = find_suspects(images(scores), calibration, 4)
    assert [each.stands_out for each in found] == [True, True, False, False]
    warning = outstanding_warning(found, calibration, "tile")
    assert warning is not None
    assert "without them it would be 7.9" in warning


def test_ordinary_and_few_images_do_not_stand_out() -> None:
    for scores in (ORDINARY, [1.0, 1.1, 9.0]):
        calibration = Calibration.of(scores, scores, 0.05)
        found = find_suspects(images(scores), calibration, 3)
        assert not any(each.stands_out for each in found)
        assert outstanding_warning(found, calibration, "tile") is None


def test_image_far_above_a_threshold_that_it_does_not_set_needs_no_warning() -> None:
    scores = [*ORDINARY * 10, 18.1]
    calibration = Calibration.of(scores, scores, 0.05)
    found = find_suspects(images(scores), calibration, 3)
    assert found[0].stands_out
    assert outstanding_warning(found, calibration, "tile") is None


def test_learned_images_are_ranked_by_themselves_and_copies_have_no_score() -> None:
    calibration = Calibration.of(ORDINARY, ORDINARY, 0.05)
    copy = GoodImage(path="train/good/copy.png", sha256="0" * 64)
    found = find_suspects([*images(ORDINARY), *images([1.0, 3.0], held_out=False), copy], calibration, 2)
    assert [(each.image.held_out, each.rank, each.count) for each in found] == [
        (True, 1, 30),
        (True, 2, 30),
        (False, 1, 2),
        (False, 2, 2),
    ]
    assert found[2].threshold_without is None
    fixed = find_suspects(images(ORDINARY), calibration.at_threshold(9.0), 1)
    assert fixed[0].threshold_without is None


def test_suspects_of_a_version_leave_out_images_that_were_removed(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    manifest = publish(models, "m", "a")
    with pytest.raises(FailedPrecondition, match="older blemish trained it"):
        suspects_of(models, manifest, None, 3)
    folder = models.folder("m", manifest.version)
    (folder / "report").mkdir()
    write_good_images(images(ORDINARY), folder)
    found = suspects_of(models, manifest, None, 2)
    assert [each.image.path for each in found] == ["train/good/29.png", "train/good/28.png"]
    (left,) = suspects_of(models, manifest, {"train/good/03.png"}, 2)
    assert (left.image.path, left.rank) == ("train/good/03.png", 27)


def test_newest_version_of_any_model_is_found_by_its_dataset(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    publish(models, "m", "a")
    assert scored_version(models, None, "tile").name == "models/m/versions/1"
    with pytest.raises(NotFound, match="`blemish train wood`"):
        scored_version(models, None, "wood")


def test_version_that_was_trained_on_another_dataset_is_refused(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    publish(models, "m", "a")
    for dataset in ("tile", ""):
        assert scored_version(models, ModelRef("m"), dataset).version == 1
    with pytest.raises(InvalidRequest, match="trained on datasets/tile, not on datasets/wood") as refused:
        scored_version(models, ModelRef("m"), "wood")
    assert refused.value.field == "dataset"
