# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from tests.support.manifests import make_manifest

from blemish_core.calibration import Calibration
from blemish_core.localization.settings import RegionSettings
from blemish_core.models import bundle
from blemish_core.models.calibration_log import CalibrationChange, Revision, ThresholdRule
from blemish_core.models.promotion import CalibrationChoice, describe, promote
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import ConfirmationNeeded, FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef

ONE, TWO, THREE = (ModelRef("tile", number) for number in (1, 2, 3))
UNSPECIFIED, OWN, KEEP = CalibrationChoice.UNSPECIFIED, CalibrationChoice.OWN, CalibrationChoice.KEEP_TARGET
FIXED, RATE = ThresholdRule.FIXED, ThresholdRule.FALSE_REJECT_RATE


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Make a model of three versions with other scores each; version 1 is in production."""
    store = ModelStore(tmp_path)
    for job in ("a", "b", "c"):

        def write(folder: Path, number: int, job: str = job) -> None:
            scores = [float(number * score) for score in range(1, 40)]
            manifest = make_manifest("tile", number, job)
            calibration = Calibration.of(scores, scores, 0.05)
            bundle.write_manifest(manifest.model_copy(update={"calibration": calibration}), folder)

        store.publish("tile", job, write)
    promote(store, ONE, UNSPECIFIED, "ann")
    return store


def calibrate(store: ModelStore, ref: ModelRef, change: CalibrationChange) -> Revision:
    return store.calibrations(store.manifest(ref)).append(change)


def judging(store: ModelStore) -> Revision:
    """Return the calibration of the version in production."""
    return store.calibrations(store.manifest(ModelRef("tile"))).newest()


def test_version_with_the_target_of_training_is_replaced_without_a_choice(store: ModelStore) -> None:
    promotion = promote(store, TWO, UNSPECIFIED, "ann")
    assert store.production("tile") == 2
    assert promotion.replaced is not None
    assert promotion.replaced.version == 1
    assert promote(store, TWO, UNSPECIFIED, "ann").replaced is None
    with pytest.raises(NotFound):
        promote(store, ModelRef("tile", 9), OWN, "ann")


@pytest.mark.parametrize(
    "change",
    [
        CalibrationChange(FIXED, "ann", 14.0),
        CalibrationChange(RATE, "ann", 0.25),
        CalibrationChange(None, "ann", regions=RegionSettings(mm_per_px=0.1)),
    ],
)
def test_calibration_of_a_person_is_not_lost_without_a_choice(
    store: ModelStore, change: CalibrationChange
) -> None:
    calibrate(store, ONE, change)
    with pytest.raises(ConfirmationNeeded, match=r"tile/versions/1 judges by .*ann|regions") as refused:
        promote(store, TWO, UNSPECIFIED, "bea")
    kept = float(str(refused.value).partition("which gives threshold ")[2].partition(" (--keep-target)")[0])
    assert store.production("tile") == 1
    assert store.calibrations(store.manifest(TWO)).newest().number == 1
    assert (
        promote(store, TWO, OWN, "bea").replaced_revision
        == store.calibrations(store.manifest(ONE)).newest()
    )
    assert judging(store).number == 1
    promote(store, ONE, OWN, "bea")
    promote(store, TWO, KEEP, "bea")
    assert judging(store).calibration.threshold == pytest.approx(kept, rel=1e-3)


def test_version_that_a_person_has_calibrated_is_promoted_without_a_choice(store: ModelStore) -> None:
    calibrate(store, ONE, CalibrationChange(FIXED, "ann", 14.0))
    calibrate(store, TWO, CalibrationChange(ThresholdRule.TRAINED, "ann"))
    promote(store, TWO, UNSPECIFIED, "ann")
    assert store.production("tile") == 2
    promote(store, ONE, UNSPECIFIED, "ann")
    assert judging(store).calibration.threshold == 14.0


def test_kept_target_is_applied_to_the_scores_of_the_new_version(store: ModelStore) -> None:
    regions = RegionSettings(smallest_area=9.0, mm_per_px=0.1, pixel_threshold=3.0)
    calibrate(store, ONE, CalibrationChange(RATE, "ann", 0.25, regions=regions))
    promote(store, TWO, KEEP, "bea")
    kept = judging(store)
    assert (kept.number, kept.rule, kept.value, kept.author) == (2, RATE, 0.25, "bea")
    assert kept.comment == "target of models/tile/versions/1"
    assert kept.calibration.threshold == 60.0  # the scores of version 2 are twice those of version 1
    assert kept.calibration.regions == RegionSettings(smallest_area=9.0, mm_per_px=0.1)


def test_kept_target_of_a_fixed_threshold_is_its_expected_rate(store: ModelStore) -> None:
    calibrate(store, ONE, CalibrationChange(FIXED, "ann", 30.0))  # 9 of 39 above it
    promote(store, TWO, KEEP, "bea")
    kept = judging(store)
    assert (kept.rule, kept.value, kept.calibration.threshold) == (RATE, 0.25, 60.0)
    assert "whose threshold 30 was fixed" in kept.comment
    calibrate(store, TWO, CalibrationChange(FIXED, "ann", 0.0))
    promote(store, THREE, KEEP, "bea")
    assert judging(store).value == 0.5  # the highest rate


def test_equal_target_needs_no_new_revision(store: ModelStore) -> None:
    promote(store, TWO, KEEP, "bea")
    assert judging(store).number == 1


def test_kept_target_needs_a_version_in_production_and_an_author(store: ModelStore) -> None:
    calibrate(store, ONE, CalibrationChange(RATE, "ann", 0.25))
    with pytest.raises(InvalidRequest, match="author"):
        promote(store, TWO, KEEP, "")
    assert store.production("tile") == 1
    store.retire("tile")
    with pytest.raises(FailedPrecondition, match="no target to keep"):
        promote(store, TWO, KEEP, "bea")
    promote(store, TWO, UNSPECIFIED, "")


def test_damaged_version_in_production_can_be_replaced(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "tile" / "aliases.json").write_text("{")
    promote(store, TWO, UNSPECIFIED, "ann")
    (store.folder("tile", 2) / "manifest.json").write_text("{")
    promote(store, THREE, UNSPECIFIED, "ann")
    assert store.production("tile") == 3


def test_threshold_is_described_with_its_origin(store: ModelStore) -> None:
    assert describe(judging(store)) == "threshold 38 (5 % false rejects asked for)"
    fixed = calibrate(store, ONE, CalibrationChange(FIXED, "ann", 14.0))
    assert describe(fixed) == "threshold 14 (fixed by ann)"
    rate = calibrate(
        store, ONE, CalibrationChange(RATE, "ann", 0.25, regions=RegionSettings(max_regions=2))
    )
    assert describe(rate) == (
        "threshold 30 (25 % false rejects asked for by ann, with regions set by a person)"
    )
