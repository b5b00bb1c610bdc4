# SPDX-License-Identifier: Apache-2.0
"""The comparison of two versions with a server in memory: what it takes, and why it may be refused."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import Evaluate, Job
from blemish.v1.model_pb2 import (
    ComparedImage,
    ComparedModel,
    CompareModelsResponse,
    Interval,
    MetricComparison,
    Metrics,
    Model,
    ModelEvaluation,
    ModelVersion,
)
from blemish_client.client import Client
from blemish_client.errors import FailedPrecondition
from blemish_console import texts
from blemish_console.data import compare
from blemish_console.data.compare import MAX_IMAGES, Obstacle, VersionPair, versions_of


def card(number: int, dataset: str = "tile", snapshot: str = "now") -> ModelVersion:
    metrics = Metrics(dataset=f"datasets/{dataset}", dataset_snapshot=snapshot)
    return ModelVersion(
        name=f"models/tile/versions/{number}", dataset=f"datasets/{dataset}", metrics=metrics
    )


class FakeClient(Client):
    """A client of a server with the given versions, and with one answer about two of them."""

    def __init__(self, *cards: ModelVersion, found: CompareModelsResponse | None = None) -> None:
        super().__init__("127.0.0.1:1")
        self.cards = {each.name.replace("models/", "").replace("/versions/", "/"): each for each in cards}
        self.found = found
        self.evaluated: list[tuple[str, str]] = []
        self.all_jobs: list[Job] = []

    def model(self, name: str) -> ModelVersion:
        return self.cards[name]

    def dataset(self, name: str) -> Dataset:
        return Dataset(name=f"datasets/{name}", snapshot="now")

    def jobs(self, **options: Any) -> Iterator[Job]:
        yield from self.all_jobs

    def compare(self, first: str, second: str, *, dataset: str = "") -> CompareModelsResponse:
        if self.found is None:
            raise FailedPrecondition("no evaluation", code=grpc.StatusCode.FAILED_PRECONDITION)
        return self.found


def response(**parts: Any) -> CompareModelsResponse:
    return CompareModelsResponse(
        first=ComparedModel(name="models/tile/versions/1"),
        second=ComparedModel(name="models/tile/versions/2"),
        **parts,
    )


def test_differing_images_are_listed_by_kind_up_to_a_limit() -> None:
    images = [ComparedImage(path=f"test/oil/{number}.png") for number in range(MAX_IMAGES + 2)]
    client = FakeClient(card(1), card(2), found=response(found_only_by_second=images))
    pair = compare.compare(client, "tile/1", "tile/2")
    assert isinstance(pair, VersionPair)
    titles = [(each.title, len(each.images), each.count) for each in pair.differing]
    assert titles[1] == (texts.FOUND_ONLY_BY.format(version="tile/2"), MAX_IMAGES, MAX_IMAGES + 2)
    assert [count for _, _, count in titles] == [0, MAX_IMAGES + 2, 0, 0]


@pytest.mark.parametrize("second", ["tile/1", ""])
def test_version_is_not_compared_with_itself_or_none(second: str) -> None:
    assert compare.compare(FakeClient(card(1)), "tile/1", second) == Obstacle(texts.COMPARE_TWO)


def test_versions_of_different_datasets_are_compared_on_a_chosen_one_only() -> None:
    client = FakeClient(card(1), card(2, "grid"), found=response())
    refused = compare.compare(client, "tile/1", "tile/2")
    assert isinstance(refused, Obstacle)
    assert refused.datasets == ("grid", "tile")
    assert "tile/2 on grid" in refused.reason
    assert isinstance(compare.compare(client, "tile/1", "tile/2", "tile"), VersionPair)


def test_version_without_an_evaluation_is_named_with_the_running_ones() -> None:
    client = FakeClient(card(1), card(2, snapshot="before"))
    refused = compare.compare(client, "tile/1", "tile/2")
    assert isinstance(refused, Obstacle)
    assert (refused.dataset, refused.unmeasured, refused.running) == ("tile", ("tile/2",), ())
    names = {"model": "models/tile/versions/2", "dataset": "datasets/tile"}
    client.all_jobs = [Job(name="jobs/1"), Job(name="jobs/2", evaluate=Evaluate(**names))]
    running = compare.compare(client, "tile/1", "tile/2")
    assert isinstance(running, Obstacle)
    assert [job.name for job in running.running] == ["jobs/2"]


def test_version_without_stored_scores_is_evaluated_again() -> None:
    refused = compare.compare(FakeClient(card(1), card(2)), "tile/1", "tile/2")
    assert isinstance(refused, Obstacle)
    assert (refused.reason, refused.unmeasured) == ("no evaluation", ("tile/1", "tile/2"))


def test_evaluation_by_a_job_counts_as_that_of_the_training_does() -> None:
    version = card(1, snapshot="before")
    present = Dataset(name="datasets/tile", snapshot="now")
    assert not compare.is_measured(version, present)
    metrics = Metrics(dataset="datasets/tile", dataset_snapshot="now")
    version.evaluations.append(ModelEvaluation(metrics=metrics))
    assert compare.is_measured(version, present)


def test_different_test_images_are_refused_unless_the_common_ones_are_asked_for() -> None:
    found = response(good_images=3, defective_images=4, left_out=2)
    client = FakeClient(card(1), card(2, snapshot="before"), found=found)
    refused = compare.compare(client, "tile/1", "tile/2")
    assert isinstance(refused, Obstacle)
    assert (refused.common_images, refused.unmeasured) == (7, ("tile/2",))
    assert isinstance(compare.compare(client, "tile/1", "tile/2", common=True), VersionPair)


@pytest.mark.parametrize(
    ("model", "named", "expected"),
    [
        ("tile", ("1", "3"), ("tile/1", "tile/3")),
        ("tile", ("", ""), ("tile/2", "tile/3")),
        ("tile", ("", "2"), ("tile/3", "tile/2")),
        ("tile", ("", "3"), ("tile/2", "tile/3")),
        ("tile", ("2", ""), ("tile/2", "tile/3")),
        ("", ("tile/1", "grid/4"), ("tile/1", "grid/4")),
        ("none", ("", ""), ("", "")),
    ],
)
def test_versions_default_to_the_one_in_production_and_the_newest(
    model: str, named: tuple[str, str], expected: tuple[str, str]
) -> None:
    own = Model(
        name="models/tile",
        production="models/tile/versions/2",
        versions=[ModelVersion(name=f"models/tile/versions/{number}") for number in (3, 2, 1)],
    )
    choices, *chosen = versions_of([own], model, named)
    assert tuple(chosen) == expected
    assert all(name in choices for name in expected if name)


def test_difference_is_clear_if_its_interval_excludes_zero() -> None:
    assert compare.is_clear(MetricComparison(difference_interval=Interval(low=0.1, high=0.2)))
    assert not compare.is_clear(MetricComparison(difference_interval=Interval(low=-0.1, high=0.2)))
    assert not compare.is_clear(MetricComparison(difference=0.5))
