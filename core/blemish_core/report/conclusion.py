# SPDX-License-Identifier: Apache-2.0
"""The conclusion of a report: what a version is fit for, and what to do next."""

from dataclasses import dataclass

from blemish_core.calibration import images_needed
from blemish_core.evaluation.metrics import Metrics
from blemish_core.models.bundle import Manifest
from blemish_core.report.formats import interval, metric, percent, score

_SEPARATED = 0.8
"""Image AUROC below which a version does not separate good and defective images."""
_FOUND = 0.8
"""Share of defective images that a version should find."""
_SURELY_FOUND = 0.6
"""Lower end of its interval, below which the test images are too few."""


@dataclass(frozen=True)
class Conclusion:
    """A finding and a next step, a sentence each."""

    finding: str
    next_step: str

    @property
    def text(self) -> str:
        """Return both sentences."""
        return f"{self.finding} {self.next_step}"


def conclude(
    manifest: Manifest, metrics: Metrics | None, *, shift: bool = False, outstanding: bool = False
) -> Conclusion:
    """Return the conclusion of a training or an evaluation.

    Args:
        manifest: manifest of the version, with the calibration of the report.
        metrics: figures on test images, if there are any.
        shift: True if good test images score higher than held-out ones.
        outstanding: True if few held-out images raise the threshold.
    """
    name, train = f"{manifest.model}/{manifest.version}", f"`blemish train {manifest.dataset}`"
    at = f"at the threshold {score(manifest.calibration.threshold)}"
    rejects = _rejects(manifest, metrics)
    missing = _missing_images(manifest)
    if metrics is not None and metrics.image_auroc is not None and metrics.image_auroc < _SEPARATED:
        within = interval(metrics.intervals.get("image_auroc"), "image_auroc")
        return Conclusion(
            "Not fit for inspection: the scores of good and defective images overlap, with an image AUROC "
            f"of {metrics.image_auroc:.3f} ({within}).",
            "Check the labels of the images below, then train with --smallest-defect or a larger "
            f"--input-size: {train}.",
        )
    if shift:
        return Conclusion(
            f"Not fit for production yet: {at} it rejects {rejects}, more than the held-out images let "
            "expect.",
            "Check test/good for defects, add good images like them to train/good, and train again: "
            f"{train}.",
        )
    if outstanding:
        return Conclusion(
            f"Not fit for production yet: a few good images with far higher scores set the threshold "
            f"{score(manifest.calibration.threshold)}.",
            f"Look at them below or with `blemish dataset suspects {manifest.dataset}`, remove the "
            f"defective ones, and train again: {train}.",
        )
    if metrics is None or metrics.detection_rate is None:
        return Conclusion(
            f"Fit for a trial: {at} it rejects {rejects}; nothing is known about defects.",
            f"Upload defective images to test/, then run `blemish evaluate {name} {manifest.dataset}`.",
        )
    found = (
        f"{at} it finds {metric(metrics.detection_rate, 'detection_rate')} of the defective images "
        f"({interval(metrics.intervals.get('detection_rate'), 'detection_rate')}) and rejects {rejects}"
    )
    if metrics.detection_rate < _FOUND:
        worst = _least_found(metrics)
        return Conclusion(
            f"Fit for coarse defects only: {found}{worst}.",
            "Choose a lower threshold in the table of operating points with `blemish models calibrate "
            f"{name}`, or train with --smallest-defect: {train}.",
        )
    lowest = metrics.intervals.get("detection_rate")
    if lowest is not None and lowest.low < _SURELY_FOUND:
        return Conclusion(
            f"Fit for a trial: {found}, but {metrics.defective_images} defective images are few.",
            f"Upload more of them to test/, then run `blemish evaluate {name} {metrics.dataset}`.",
        )
    if missing:
        return Conclusion(
            f"Fit for a trial: {found}; the held-out images are too few for the requested rate.",
            f"Upload about {missing} more good images, and train again: {train}.",
        )
    return Conclusion(
        f"Fit for production: {found}.", f"Put it in production with `blemish models promote {name}`."
    )


def _rejects(manifest: Manifest, metrics: Metrics | None) -> str:
    """Return the false-reject rate of good test images, or that of held-out ones without them."""
    if metrics is not None and metrics.false_reject_rate is not None:
        within = interval(metrics.intervals.get("false_reject_rate"), "false_reject_rate")
        return f"{percent(metrics.false_reject_rate)} of the good ones ({within})"
    low, high = manifest.calibration.false_reject_rate_interval
    return (
        f"about {percent(manifest.calibration.warranted_false_reject_rate)} of good images "
        f"({percent(low)} to {percent(high)})"
    )


def _missing_images(manifest: Manifest) -> int:
    """Return about how many more good images the requested false-reject rate needs."""
    calibration = manifest.calibration
    if calibration.fixed_threshold is not None:
        return 0
    short = images_needed(calibration.target_false_reject_rate) - len(calibration.scores)
    share = len(calibration.scores) / max(manifest.split.learned, len(calibration.scores))
    return max(0, round(short / share))


def _least_found(metrics: Metrics) -> str:
    """Return the class of which the smallest share is found, empty without several classes."""
    rates = {
        name: of.detection_rate for name, of in metrics.classes.items() if of.detection_rate is not None
    }
    if len(rates) < 2:
        return ""
    name = min(rates, key=lambda each: rates[each])
    return f", and {percent(rates[name])} of {name}"
