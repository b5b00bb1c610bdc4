# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from tests.core.report.test_write import make_evaluation, make_report_manifest

from blemish_core.evaluation.evaluate import Evaluation
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, ThresholdRule
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef
from blemish_core.report.in_force import current_page
from blemish_core.report.write import EvaluationRun, Report, write

REF = ModelRef("tile-patchcore", 3)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


def published(store: ModelStore, evaluation: Evaluation | None) -> Manifest:
    """Write a version whose training was evaluated; return its manifest."""
    manifest = make_report_manifest(metrics=evaluation.metrics if evaluation else None)
    folder = store.folder(manifest.model, manifest.version)
    folder.mkdir(parents=True)
    bundle.write_manifest(manifest, folder)
    write(Report(manifest, evaluation, ()), folder / bundle.REPORT)
    return manifest


def calibrate(store: ModelStore, manifest: Manifest, threshold: float) -> None:
    change = CalibrationChange(ThresholdRule.FIXED, "ann <b>", threshold, "dusty & wet")
    store.calibrations(manifest).append(change)


def test_report_of_an_unchanged_calibration_is_the_stored_one(store: ModelStore) -> None:
    manifest = published(store, make_evaluation())
    assert current_page(store, REF, None) == store.report(REF).read_bytes()
    store.calibrations(manifest).append(CalibrationChange(ThresholdRule.TRAINED, "ann"))
    assert current_page(store, REF, None) == store.report(REF).read_bytes()


def test_report_begins_with_the_threshold_in_force_and_figures_at_it(store: ModelStore) -> None:
    manifest = published(store, make_evaluation())
    calibrate(store, manifest, 2.25)
    page = current_page(store, REF, None).decode()
    section = page[page.index("<body><main>") : page.index('<div class="kind">')]
    assert "Now judged by threshold 2.25" in section
    assert "revision 2" in section
    assert "by ann &lt;b&gt;: dusty &amp; wet" in section
    # Good: 1 + i / 8 for i below 12. Defective: 1.6 + i / 5 for i below 8.
    text = " ".join(section.split())
    assert "good test images rejected at threshold 2.25</td><td>8.3 %" in text
    assert "defective test images detected at threshold 2.25</td><td>50.0 %" in text
    assert "crack detected at threshold 2.25</td><td>50.0 %" in text
    trained = f"{manifest.calibration.threshold:.4g}"
    assert f"All other sections of this page show threshold {trained}" in section
    rest = page[page.index('<div class="kind">') :]
    assert f"good images rejected at threshold {trained}" in rest
    assert f"defective images detected at threshold {trained}" in rest


def test_conclusion_of_a_fetched_report_is_that_of_the_threshold_in_force(store: ModelStore) -> None:
    manifest = published(store, make_evaluation())
    trained = f"{manifest.calibration.threshold:.4g}"
    assert f"threshold {trained} it" in _conclusion(store)
    calibrate(store, manifest, 2.25)
    assert "at the threshold 2.25 it finds 50.0 % of the defective images" in _conclusion(store)
    calibrate(store, manifest, 1.5)
    assert "at the threshold 1.5 it" in _conclusion(store)


def _conclusion(store: ModelStore) -> str:
    """Return the only conclusion of the report of the training."""
    _, *found = current_page(store, REF, None).decode().split('<div class="card conclusion">')
    assert len(found) == 1
    return found[0].partition("</div>")[0]


def test_report_without_test_images_has_the_threshold_in_force(store: ModelStore) -> None:
    manifest = published(store, None)
    calibrate(store, manifest, 2.25)
    page = current_page(store, REF, None).decode()
    assert "Now judged by threshold 2.25" in page
    assert "test images rejected at" not in page


def test_report_of_an_evaluation_compares_with_its_own_threshold(store: ModelStore) -> None:
    evaluation = make_evaluation()
    manifest = published(store, evaluation)
    calibrate(store, manifest, 2.25)
    moved = manifest.model_copy(update={"calibration": manifest.calibration.at_threshold(2.25)})
    by = EvaluationRun("e", manifest.created)
    store.add_evaluation(REF, "e", lambda folder: write(Report(moved, evaluation, (), by=by), folder))
    assert "Now judged by" not in current_page(store, REF, "e").decode()
    calibrate(store, manifest, 2.75)
    page = current_page(store, REF, "e").decode()
    assert "Now judged by threshold 2.75" in page
    assert "All other sections of this page show threshold 2.25" in page


def test_metrics_of_a_card_belong_to_the_threshold_in_force(store: ModelStore) -> None:
    manifest = published(store, make_evaluation())
    trained = store.metrics(manifest, manifest.calibration.threshold)
    assert trained is not None
    assert trained.threshold == manifest.calibration.threshold
    moved = store.metrics(manifest, 2.25)
    assert moved is not None
    assert (moved.threshold, moved.regions_threshold) == (2.25, manifest.calibration.threshold)
    assert moved.false_reject_rate == pytest.approx(1 / 12)
    assert moved.detection_rate == 0.5
    assert moved.classes["crack"].detection_rate == 0.5
    (store.folder("tile-patchcore", 3) / "report" / "scores.csv").unlink()
    kept = store.metrics(manifest, 2.25)
    assert kept == trained  # and so names the threshold of the training
