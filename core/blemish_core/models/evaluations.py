# SPDX-License-Identifier: Apache-2.0
"""The evaluations of a model version, and the comparison of two versions by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from blemish_core.evaluation import stored_scores
from blemish_core.evaluation.metrics import Metrics
from blemish_core.evaluation.paired_scores import MetricDifference, PairedScores, StoredRow, pair, read_rows
from blemish_core.evaluation.resampling import Estimate
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest
from blemish_core.platform.names import ModelRef, dataset_name
from blemish_core.runtimes.choice import TORCH
from blemish_layouts.reading import read_regular

PIXEL_METRICS = ("pixel_auroc", "aupro")
_FILE = "metrics.json"
_MAX_BYTES = 16 << 20


class _MetricsFile(BaseModel):
    """The content of ``metrics.json``."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    metrics: Metrics
    time: AwareDatetime | None = None
    """None in files of older versions."""


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation of a version, with its figures at the threshold in force."""

    job: str
    """Id of the evaluation job."""
    time: datetime
    metrics: Metrics


@dataclass(frozen=True)
class ComparedVersion:
    """One of two versions, and the evaluation by which it is compared."""

    manifest: Manifest
    job: str
    """Id of the evaluation job, empty for the evaluation of the training."""
    metrics: Metrics
    threshold: float
    """Threshold in force."""


@dataclass(frozen=True)
class VersionComparison:
    """Two versions on the same images."""

    first: ComparedVersion
    second: ComparedVersion
    dataset: str
    """Id of the dataset."""
    paired: PairedScores

    def pixel_metrics(self) -> list[MetricDifference]:
        """Return the pixel metrics of both evaluations; none if their images differ."""
        if self.paired.left_out:
            return []
        one, other = self.first.metrics, self.second.metrics
        found = []
        for name in PIXEL_METRICS:
            first, second = getattr(one, name), getattr(other, name)
            if first is not None and second is not None:
                estimates = (
                    Estimate(first, one.intervals.get(name)),
                    Estimate(second, other.intervals.get(name)),
                )
                found.append(MetricDifference(name, *estimates, Estimate(second - first)))
        return found


def evaluations_of(models: ModelStore, manifest: Manifest, limit: int) -> list[StoredEvaluation]:
    """Return up to ``limit`` evaluations of a version by jobs, the newest first.

    Their figures are those of the threshold in force, as far as scores are stored.
    """
    evaluations = []
    for job, folder, stored in islice(_of_jobs(models, manifest), limit):
        threshold = _threshold(models, manifest, stored.metrics)
        metrics = stored.metrics.model_copy(update={"threshold": stored.threshold})
        scores = stored_scores.read_scores(folder)
        if scores is not None and threshold != stored.threshold:
            metrics = stored_scores.at_threshold(metrics, scores, threshold)
        evaluations.append(StoredEvaluation(job, stored.time or _changed(folder), metrics))
    return evaluations


def compare_versions(
    models: ModelStore, first: ModelRef, second: ModelRef, dataset: str, snapshot: str
) -> VersionComparison:
    """Compare two versions on the images that both have scored, at their thresholds in force.

    Args:
        models: store of both.
        first: reference of the first version.
        second: reference of the second version.
        dataset: id of the dataset; if empty, that on which both were trained.
        snapshot: present snapshot of the dataset, empty if it was deleted. An evaluation of it takes
            precedence over newer ones.

    Raises:
        NotFound: if a version does not exist.
        InvalidRequest: if no dataset is given, and the versions were trained on different ones.
        FailedPrecondition: if a version has no evaluation of the dataset, or they have no images in common.
    """
    manifests = models.manifest(first), models.manifest(second)
    datasets = {manifest.dataset for manifest in manifests}
    if not dataset and len(datasets) > 1:
        raise InvalidRequest(
            f"the versions were trained on {' and '.join(sorted(datasets))}; set dataset to the one to "
            "compare them on",
            field="dataset",
        )
    chosen = dataset or manifests[0].dataset
    one, one_rows = _evaluated(models, manifests[0], chosen, snapshot)
    other, other_rows = _evaluated(models, manifests[1], chosen, snapshot)
    paired = pair(one_rows, other_rows, (one.threshold, other.threshold))
    if not paired.images:
        raise FailedPrecondition(
            f"the evaluations of {manifests[0].name} and {manifests[1].name} on {dataset_name(chosen)} "
            "have no images in common; evaluate both again with `blemish evaluate`"
        )
    return VersionComparison(one, other, chosen, paired)


def _evaluated(
    models: ModelStore, manifest: Manifest, dataset: str, snapshot: str
) -> tuple[ComparedVersion, list[StoredRow]]:
    """Return the newest evaluation of a snapshot, or else of another one of the dataset, and its images."""
    found = [each for each in _newest_first(models, manifest) if each[2].metrics.dataset == dataset]
    found.sort(key=lambda each: each[2].metrics.dataset_snapshot != snapshot)
    for job, folder, stored in found:
        if (rows := read_rows(folder)) is not None:
            judged = stored.metrics if job else None
            threshold = _threshold(models, manifest, judged)
            return ComparedVersion(manifest, job, stored.metrics, threshold), rows
    raise FailedPrecondition(
        f"{manifest.name} has no evaluation of {dataset_name(dataset)} with scores; run `blemish evaluate "
        f"{manifest.model}/{manifest.version} {dataset}`"
    )


def _newest_first(models: ModelStore, manifest: Manifest) -> Iterator[tuple[str, Path, _MetricsFile]]:
    """Yield the evaluations by jobs, then that of the training with an empty id."""
    yield from _of_jobs(models, manifest)
    folder = models.training_report_folder(manifest)
    if (stored := _read(folder)) is not None:
        yield "", folder, stored


def _of_jobs(models: ModelStore, manifest: Manifest) -> Iterator[tuple[str, Path, _MetricsFile]]:
    """Yield the evaluations by jobs with their folders, the newest first."""
    found = [
        (stored.time or _changed(folder), job, folder, stored)
        for job, folder in models.evaluation_folders(manifest).items()
        if (stored := _read(folder)) is not None
    ]
    for _, job, folder, stored in sorted(found, key=lambda each: (each[0], each[1]), reverse=True):
        yield job, folder, stored


def _threshold(models: ModelStore, manifest: Manifest, metrics: Metrics | None) -> float:
    """Return the threshold in force of the runtime that an evaluation used, of torch for a training."""
    latency = metrics.latency if metrics is not None else None
    runtime = latency.runtime if latency is not None else TORCH
    return models.calibrations(manifest, runtime).newest().calibration.threshold


def _read(folder: Path) -> _MetricsFile | None:
    try:
        return _MetricsFile.model_validate_json(read_regular(folder / _FILE, _MAX_BYTES))
    except (OSError, ValidationError):
        return None


def _changed(folder: Path) -> datetime:
    return datetime.fromtimestamp((folder / _FILE).stat().st_mtime, UTC)
