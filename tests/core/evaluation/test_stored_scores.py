# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish_core.evaluation.image_metrics import image_metrics
from blemish_core.evaluation.metrics import ClassMetrics, Metrics
from blemish_core.evaluation.stored_scores import at_threshold, read_scores

HEAD = "path,class,score,p_value,verdict,judgement,original_path\n"
ROWS = """test/crack/0.png,crack,9.5,0.01,anomalous,right,
test/crack/1.png,crack,14.25,0.01,anomalous,right,"a, \u2028b"
test/good/0.png,good,6.125,0.5,normal,right,
test/good/1.png,good,10.5,0.01,anomalous,false reject,
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "scores.csv").write_text(HEAD + ROWS, encoding="utf-8")
    return tmp_path


def test_scores_are_read_by_class(report: Path) -> None:
    scores = read_scores(report)
    assert scores is not None
    assert scores.by_class == {"crack": (9.5, 14.25), "good": (6.125, 10.5)}
    assert (scores.good, scores.defective) == ((6.125, 10.5), (9.5, 14.25))


@pytest.mark.parametrize("damage", ["", HEAD + "a,good,high,,,,", HEAD + "a,good,nan,,,,", "no,score\n1,2"])
def test_unreadable_scores_are_none_or_empty(tmp_path: Path, damage: str) -> None:
    assert read_scores(tmp_path) is None
    (tmp_path / "scores.csv").write_text(damage)
    scores = read_scores(tmp_path)
    assert scores is None or not scores.by_class


def test_figures_at_another_threshold_are_those_of_an_evaluation_at_it(report: Path) -> None:
    scores = read_scores(report)
    assert scores is not None
    good, defective = scores.good, scores.defective
    fields = {name: each.value for name, each in image_metrics(good, defective, 9.0).items()}
    intervals = {name: each.interval for name, each in image_metrics(good, defective, 9.0).items()}
    measured = Metrics.model_validate(
        {
            **fields,
            "dataset": "tile",
            "dataset_snapshot": "0",
            "good_images": 2,
            "defective_images": 2,
            "threshold": 9.0,
            "region_iou": 0.5,
            "regions_threshold": 9.0,
            "intervals": intervals,
            "classes": {"crack": ClassMetrics(images=2, detection_rate=1.0, image_auroc=0.75)},
        }
    )
    moved = at_threshold(measured, scores, 12.0)
    expected = image_metrics(good, defective, 12.0)
    for name in ("false_reject_rate", "detection_rate", "f1", "image_auroc", "best_f1"):
        assert getattr(moved, name) == expected[name].value, name
        assert moved.intervals[name] == expected[name].interval, name
    assert (moved.threshold, moved.regions_threshold, moved.region_iou) == (12.0, 9.0, 0.5)
    crack = moved.classes["crack"]
    assert (crack.detection_rate, crack.image_auroc) == (0.5, 0.75)
    assert crack.intervals["detection_rate"].low < 0.5 < crack.intervals["detection_rate"].high
