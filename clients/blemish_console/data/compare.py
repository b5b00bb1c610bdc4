# SPDX-License-Identifier: Apache-2.0
"""Two versions on the same test images, or the reason for which they cannot be compared yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import Job
from blemish.v1.model_pb2 import (
    ComparedImage,
    CompareModelsResponse,
    MetricComparison,
    Model,
    ModelVersion,
)
from blemish_client.client import Client
from blemish_client.errors import FailedPrecondition, NotFound
from blemish_client.names import short
from blemish_client.types.enums import JobState
from blemish_console import texts

MAX_IMAGES = 48
"""Number of differing images of one kind that the page shows."""


@dataclass(frozen=True)
class Obstacle:
    """The reason for which two versions cannot be compared, and what would change that."""

    reason: str
    datasets: tuple[str, ...] = ()
    """Datasets on which they could be compared, to choose from."""
    dataset: str = ""
    """Dataset on which the versions in ``unmeasured`` are to be evaluated."""
    unmeasured: tuple[str, ...] = ()
    """Names of versions without an evaluation of the present images."""
    running: tuple[Job, ...] = ()
    """Evaluations of these versions that have not ended."""
    common_images: int = 0
    """Number of images that both have scored, on which they can be compared nevertheless."""


@dataclass(frozen=True)
class DifferingImages:
    """The images that only one version rejects."""

    title: str
    images: list[ComparedImage]
    count: int
    """Number of all such images, of which ``images`` has the first ones."""


@dataclass(frozen=True)
class VersionPair:
    """Two versions on the same images."""

    found: CompareModelsResponse
    differing: list[DifferingImages] = field(default_factory=list)


def versions_of(models: list[Model], model: str, named: tuple[str, str]) -> tuple[list[str], str, str]:
    """Return the versions to choose from, the newest first, and the two that are compared.

    Args:
        models: all models.
        model: id of the model; empty for that of a named version.
        named: version numbers or names from the address; empty for the one in production, or else the one
            before the newest, and for the newest other one.
    """
    first, second = (f"{model}/{name}" if name and "/" not in name else name for name in map(short, named))
    model = model or (first or second).partition("/")[0]
    own = next((each for each in models if short(each.name) == model), Model())
    choices = [short(version.name) for version in own.versions]
    choices += [name for name in (first, second) if name and name not in choices]
    others = [name for name in choices if name not in (first, second)]
    if not second:
        production = short(own.production) if own.production else ""
        spare = [name for name in others if name != production or first]
        second = spare[0] if spare else ""
    if not first:
        production = short(own.production) if own.production else ""
        rest = [name for name in others if name != second]
        first = production if production in rest else (rest[0] if rest else "")
    return choices, first, second


def compare(
    client: Client, first: str, second: str, dataset: str = "", *, common: bool = False
) -> VersionPair | Obstacle:
    """Compare two versions on a test set, or return the reason against it.

    Args:
        client: client of the server.
        first: name of a version.
        second: name of another version.
        dataset: name of the dataset; empty for the one on which both were trained.
        common: True to compare evaluations of different test sets by the images in both.

    Raises:
        BlemishError: if a call fails for another reason.
    """
    if not first or not second or first == second:
        return Obstacle(texts.COMPARE_TWO)
    cards = client.model(first), client.model(second)
    trained_on = sorted({short(card.dataset) for card in cards})
    if not dataset and len(trained_on) > 1:
        reason = texts.COMPARE_DATASETS.format(
            first=first,
            second=second,
            first_dataset=short(cards[0].dataset),
            second_dataset=short(cards[1].dataset),
        )
        return Obstacle(reason, datasets=tuple(trained_on))
    name = short(dataset or cards[0].dataset)
    try:
        present = client.dataset(name)
    except NotFound:
        present = None
    lacking = tuple(short(card.name) for card in cards if present and not is_measured(card, present))
    try:
        found = client.compare(first, second, dataset=name)
    except FailedPrecondition as error:
        reason = texts.COMPARE_UNMEASURED.format(dataset=name, versions=texts.AND.join(lacking))
        # An evaluation of an older server may have figures, but no scores of images.
        again = lacking or ((first, second) if present else ())
        return Obstacle(
            reason if lacking else error.message,
            dataset=name,
            unmeasured=again,
            running=_running(client, again, name),
        )
    if found.left_out and not common:
        reason = texts.COMPARE_LEFT_OUT.format(dataset=name, count=found.left_out)
        count = found.good_images + found.defective_images
        running = _running(client, lacking, name)
        return Obstacle(reason, (), name, lacking, running, common_images=count)
    return VersionPair(found, _differing(found))


def evaluate(client: Client, versions: tuple[str, ...], dataset: str) -> list[Job]:
    """Start the evaluations of versions on a dataset."""
    return [client.evaluate(version, dataset) for version in versions]


def is_measured(version: ModelVersion, dataset: Dataset) -> bool:
    """Return whether the card has figures on the present images of a dataset."""
    measured = [evaluation.metrics for evaluation in version.evaluations]
    if version.HasField("metrics"):
        measured.append(version.metrics)
    return any(
        (each.dataset, each.dataset_snapshot) == (dataset.name, dataset.snapshot) for each in measured
    )


def is_clear(metric: MetricComparison) -> bool:
    """Return whether chance does not explain a difference: zero lies outside of its interval."""
    interval = metric.difference_interval
    return metric.HasField("difference_interval") and (interval.low > 0 or interval.high < 0)


def _differing(found: CompareModelsResponse) -> list[DifferingImages]:
    names: Mapping[str, str] = {"first": short(found.first.name), "second": short(found.second.name)}
    return [
        DifferingImages(title.format(version=names[number]), list(images[:MAX_IMAGES]), len(images))
        for title, number, images in (
            (texts.FOUND_ONLY_BY, "first", found.found_only_by_first),
            (texts.FOUND_ONLY_BY, "second", found.found_only_by_second),
            (texts.REJECTED_ONLY_BY, "first", found.rejected_only_by_first),
            (texts.REJECTED_ONLY_BY, "second", found.rejected_only_by_second),
        )
    ]


def _running(client: Client, versions: tuple[str, ...], dataset: str) -> tuple[Job, ...]:
    if not versions:
        return ()
    return tuple(
        job
        for job in client.jobs(states=[JobState.QUEUED, JobState.RUNNING])
        if short(job.evaluate.model) in versions and short(job.evaluate.dataset) == dataset
    )
