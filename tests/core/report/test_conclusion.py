# SPDX-License-Identifier: Apache-2.0
"""A report concludes what a version is fit for, and names the next step."""

import pytest
from tests.core.report.test_write import make_report_manifest

from blemish_core.calibration import Calibration
from blemish_core.evaluation.image_metrics import image_metrics
from blemish_core.evaluation.metrics import ClassMetrics, Metrics
from blemish_core.report.conclusion import conclude
from blemish_core.report.operating import operating_points

HELD_OUT = [1 + number / 100 for number in range(100)]


def measured(good: list[float], defective: list[float], threshold: float) -> Metrics:
    found = image_metrics(good, defective, threshold)
    return Metrics.model_validate(
        {
            "dataset": "tile",
            "dataset_snapshot": "cd" * 32,
            "good_images": len(good),
            "defective_images": len(defective),
            "intervals": {name: each.interval for name, each in found.items() if each.interval},
            "classes": {
                "dent": ClassMetrics(images=1, detection_rate=0.25),
                "hole": ClassMetrics(images=1, detection_rate=1.0),
            },
            **{name: each.value for name, each in found.items()},
        }
    )


def calibrated(scores: list[float] = HELD_OUT, rate: float = 0.05) -> Calibration:
    return Calibration.of(scores, scores, rate)


@pytest.mark.parametrize(
    ("metrics", "verdict", "step"),
    [
        (
            measured([1.2] * 30, [3.0] * 40, 1.95),
            "Fit for production",
            "`blemish models promote tile-patchcore/3`",
        ),
        (
            measured([1.2] * 30, [3.0] * 4, 1.95),
            "Fit for a trial",
            "`blemish evaluate tile-patchcore/3 tile`",
        ),
        (
            measured([1.2] * 30, [3.0, 1.5] * 20, 1.95),
            "Fit for coarse defects only",
            "`blemish models calibrate",
        ),
        (measured([1.2, 1.4] * 15, [1.3, 1.4] * 20, 1.95), "Not fit for inspection", "--smallest-defect"),
        (measured([1.2] * 30, [], 1.95), "Fit for a trial", "Upload defective images to test/"),
        (None, "Fit for a trial", "Upload defective images to test/"),
    ],
)
def test_conclusion_follows_from_the_figures(metrics: Metrics | None, verdict: str, step: str) -> None:
    found = conclude(make_report_manifest(calibration=calibrated()), metrics)
    assert found.finding.startswith(verdict)
    assert step in found.next_step


def test_class_of_which_least_is_found_is_named() -> None:
    metrics = measured([1.2] * 30, [3.0, 1.5] * 20, 1.95)
    found = conclude(make_report_manifest(calibration=calibrated()), metrics)
    assert "finds 50.0 % of the defective images (33.8 to 66.2 %)" in found.finding
    assert "25.0 % of dent" in found.finding


def test_without_test_images_the_held_out_ones_give_the_false_rejects() -> None:
    found = conclude(make_report_manifest(calibration=calibrated()), None)
    assert "it rejects about 5.0 % of good images (1.4 % to 8.9 %)" in found.finding
    assert "nothing is known about defects" in found.finding


def test_findings_about_the_images_come_before_good_figures() -> None:
    metrics = measured([1.2] * 30, [3.0] * 40, 1.95)
    manifest = make_report_manifest(calibration=calibrated())
    assert "more than the held-out images let expect" in conclude(manifest, metrics, shift=True).finding
    assert "`blemish dataset suspects tile`" in conclude(manifest, metrics, outstanding=True).next_step
    few = make_report_manifest(calibration=calibrated([1.0, 1.1, 1.2]))
    # Three of 30 images are held out, and 16 more are needed.
    assert "Upload about 160 more good images" in conclude(few, metrics).next_step


def test_operating_points_trade_false_rejects_for_detections() -> None:
    points = operating_points(calibrated(), [1.0, 1.985], [1.5, 1.97, 3.0])
    thresholds = [each.threshold for each in points]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert [each.threshold for each in points if each.in_force] == [calibrated().threshold]
    assert points[0].threshold == HELD_OUT[-1]
    assert points[0].expected == pytest.approx(0.01)
    assert points[0].detected.value == pytest.approx(1 / 3)
    assert points[0].rejected.value == 0.0
    in_force = next(each for each in points if each.in_force)
    assert (in_force.expected, in_force.rejected.value) == (0.05, 0.5)
    assert in_force.detected.value == pytest.approx(2 / 3)
    assert in_force.expected_interval.low < 0.05 < in_force.expected_interval.high
    assert points[-1].detected.value == pytest.approx(2 / 3)


def test_fixed_threshold_is_one_of_the_operating_points() -> None:
    points = operating_points(calibrated().at_threshold(7.0), [], [])
    assert [each.threshold for each in points if each.in_force] == [7.0]
    assert points[0].detected.value is None
