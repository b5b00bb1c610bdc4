# SPDX-License-Identifier: Apache-2.0
"""Two versions are compared by their evaluations of the same state of a dataset."""

import json
from pathlib import Path

from tests.core.models.test_store import publish

from blemish_core.models.evaluations import compare_versions
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef

FIRST, SECOND = ModelRef("m", 1), ModelRef("m", 2)


def evaluate(
    models: ModelStore, ref: ModelRef, job: str, snapshot: str, images: int, aupro: float | None = None
) -> None:
    """Store an evaluation of ``images`` good images; jobs with later names are newer."""
    measured = {
        "dataset": "tile",
        "dataset_snapshot": snapshot,
        "good_images": images,
        "defective_images": 0,
        "aupro": aupro,
        "intervals": {"aupro": {"low": 0.5, "high": 1.0}} if aupro is not None else {},
    }
    rows = [f"test/good/{number}.png,good,{number}\n" for number in range(images)]

    def write(folder: Path) -> None:
        content = {"time": f"2026-01-0{job[-1]}T00:00:00+00:00", "threshold": 1.0, "metrics": measured}
        (folder / "metrics.json").write_text(json.dumps(content))
        (folder / "scores.csv").write_text("path,class,score\n" + "".join(rows))

    models.add_evaluation(ref, job, write)


def test_evaluations_of_the_present_images_are_compared_not_newer_ones_of_others(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    for ref in (FIRST, SECOND):
        publish(models, "m", str(ref.version))
        evaluate(models, ref, f"v{ref.version}-job1", "all", 5)
        evaluate(models, ref, f"v{ref.version}-job2", "one removed", 4)
    found = compare_versions(models, FIRST, SECOND, "tile", "all")
    assert (found.first.job, found.second.job) == ("v1-job1", "v2-job1")
    assert found.paired.count(good=True) == 5
    removed = compare_versions(models, FIRST, SECOND, "tile", "one removed")
    assert removed.paired.count(good=True) == 4


def test_newest_evaluations_are_compared_if_none_has_the_present_images(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    for ref in (FIRST, SECOND):
        publish(models, "m", str(ref.version))
        evaluate(models, ref, f"v{ref.version}-job1", "old", 5)
        evaluate(models, ref, f"v{ref.version}-job2", "newer", 4)
    for snapshot in ("newest", ""):
        found = compare_versions(models, FIRST, SECOND, "", snapshot)
        assert (found.first.job, found.second.job) == ("v1-job2", "v2-job2")


def test_pixel_metrics_are_compared_only_on_equal_images(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    for ref, aupro in ((FIRST, 0.75), (SECOND, 1.0)):
        publish(models, "m", str(ref.version))
        evaluate(models, ref, f"v{ref.version}-job1", "all", 5, aupro)
    (found,) = compare_versions(models, FIRST, SECOND, "tile", "all").pixel_metrics()
    assert (found.name, found.first.value, found.difference.value) == ("aupro", 0.75, 0.25)
    assert found.second.interval is not None
    assert found.difference.interval is None
    evaluate(models, SECOND, "v2-job2", "all", 4, 1.0)
    assert compare_versions(models, FIRST, SECOND, "tile", "all").pixel_metrics() == []
