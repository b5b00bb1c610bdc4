# SPDX-License-Identifier: Apache-2.0
"""The promotion of a version, without losing a calibration that a person has set."""

from dataclasses import dataclass
from enum import StrEnum

from blemish_core.localization.settings import RegionSettings
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, Revision, ThresholdRule
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import ConfirmationNeeded, Corrupt, FailedPrecondition, NotFound
from blemish_core.platform.names import ModelRef

_HIGHEST_TARGET = 0.5


class CalibrationChoice(StrEnum):
    """The calibration by which a promoted version judges."""

    UNSPECIFIED = "unspecified"
    """Its own, unless a person's calibration would be lost."""
    OWN = "own"
    KEEP_TARGET = "keep_target"
    """The target rate and the regions of the version that it replaces, on its own held-out scores."""


@dataclass(frozen=True)
class Promotion:
    """A version that was put in production, and the one that it replaced, if any."""

    manifest: Manifest
    replaced: Manifest | None = None
    replaced_revision: Revision | None = None


def promote(models: ModelStore, ref: ModelRef, choice: CalibrationChoice, author: str) -> Promotion:
    """Put a version in production.

    Args:
        models: the store.
        ref: the version.
        choice: calibration by which it judges.
        author: author of the revision that carries a target over.

    Raises:
        NotFound: if the version does not exist.
        ConfirmationNeeded: if the choice is unspecified, and the calibration that a person has set for the
            version in production would be replaced by that of a training.
        FailedPrecondition: if a target is to be kept, but no version is in production.
        InvalidRequest: if a target is to be kept, and ``author`` is missing.
    """
    manifest = models.manifest(ref)
    own = models.calibrations(manifest)
    now = _in_production(models, manifest.model)
    if now is None and choice is CalibrationChoice.KEEP_TARGET:
        raise FailedPrecondition(
            f"no version of {manifest.model} is in production, so there is no target to keep; promote "
            f"{manifest.name} with its own calibration"
        )
    if now is None or now.manifest.version == manifest.version:
        return Promotion(models.promote(ref))
    if choice is CalibrationChoice.UNSPECIFIED and now.is_set_by_person and own.newest().number == 1:
        led_to = own.preview(_kept_target(now, author or now.revision.author)).calibration.threshold
        raise ConfirmationNeeded(
            f"{now.manifest.name} judges by {describe(now.revision)}, and {manifest.name} would judge by "
            f"{describe(own.newest())}; choose to keep the target, which gives threshold {led_to:.4g} "
            "(--keep-target), or its own (--own-target)"
        )
    if choice is CalibrationChoice.KEEP_TARGET:
        kept = _kept_target(now, author)
        if not _judges_alike(own.newest(), own.preview(kept)):
            own.append(kept)
    return Promotion(models.promote(ref), now.manifest, now.revision)


@dataclass(frozen=True)
class _Judging:
    """A version with the calibration by which it judges."""

    manifest: Manifest
    revision: Revision

    @property
    def is_set_by_person(self) -> bool:
        is_trained = self.revision.rule is ThresholdRule.TRAINED
        return not is_trained or self.revision.calibration.regions != RegionSettings()


def _in_production(models: ModelStore, model: str) -> _Judging | None:
    """Return the version in production, None if there is none or it is damaged: another one replaces it."""
    try:
        number = models.production(model)
        if number is None:
            return None
        manifest = models.manifest(ModelRef(model, number))
        return _Judging(manifest, models.calibrations(manifest).newest())
    except (Corrupt, NotFound):
        return None


def describe(revision: Revision) -> str:
    """Return a threshold with its origin: threshold 9.906 (5 % false rejects asked for)."""
    calibration = revision.calibration
    match revision.rule:
        case ThresholdRule.FIXED:
            origin = f"fixed by {revision.author}"
        case ThresholdRule.FALSE_REJECT_RATE:
            origin = f"{100 * revision.value:.3g} % false rejects asked for by {revision.author}"
        case ThresholdRule.TRAINED:
            origin = f"{100 * calibration.target_false_reject_rate:.3g} % false rejects asked for"
    regions = "" if calibration.regions == RegionSettings() else ", with regions set by a person"
    return f"threshold {calibration.threshold:.4g} ({origin}{regions})"


def _kept_target(replaced: _Judging, author: str) -> CalibrationChange:
    """Return the change that gives a version the target and the regions of the replaced one.

    A fixed threshold has no target, so its expected rate of false rejects takes the place. Scores of two
    versions differ, so neither a threshold nor a pixel threshold is carried over.
    """
    revision, name = replaced.revision, replaced.manifest.name
    calibration = revision.calibration
    if revision.rule is ThresholdRule.FIXED:
        target = min(calibration.warranted_false_reject_rate, _HIGHEST_TARGET)
        note = f"expected false rejects of {name}, whose threshold {revision.value:.4g} was fixed"
    else:
        target, note = calibration.target_false_reject_rate, f"target of {name}"
    regions = calibration.regions.model_copy(update={"pixel_threshold": None})
    return CalibrationChange(ThresholdRule.FALSE_REJECT_RATE, author, target, note, regions)


def _judges_alike(one: Revision, other: Revision) -> bool:
    first, second = one.calibration, other.calibration
    return (first.threshold, first.regions, first.target_false_reject_rate) == (
        second.threshold,
        second.regions,
        second.target_false_reject_rate,
    )
