# SPDX-License-Identifier: Apache-2.0
"""The plan of a training that learns from labels, and the offer of its version, with a server in memory."""

from collections.abc import Iterator
from typing import TypeVar

import grpc
import pytest

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_SUCCEEDED, Job, JobResult, PatchCore, Train
from blemish.v1.model_pb2 import Calibration, FrameMask, Model, ModelVersion
from blemish.v1.search_pb2 import LABEL_FALSE_ALARM, LABEL_GOOD, Hit
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_console.data import learn
from blemish_console.data.learn import CannotLearn, LabelledGood, Standing

Named = TypeVar("Named", Dataset, Job)
VERSION = "models/tile/versions/1"


class FakeClient(Client):
    """A client of a server with one model, whose version 1 was trained on the dataset tile."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.card = ModelVersion(
            name=VERSION,
            dataset="datasets/tile",
            detector="patchcore",
            job="jobs/1",
            calibration=Calibration(target_false_reject_rate=0.02),
        )
        self.labelled = [
            Hit(camera="right", label=LABEL_FALSE_ALARM),
            Hit(camera="left", label=LABEL_GOOD),
            Hit(camera="right", label=LABEL_GOOD),
            Hit(dataset="datasets/other", label=LABEL_FALSE_ALARM),
            Hit(dataset="datasets/tile", label=LABEL_GOOD),
        ]
        trained = Train(dataset="datasets/tile", model_id="tile", seed=7, patchcore=PatchCore(neighbors=3))
        self.all_jobs = [Job(name="jobs/1", train=trained, result=JobResult(model_version=VERSION))]
        self.all_datasets = [Dataset(name="datasets/tile", train_images=24)]
        self.all_models = [Model(name="models/tile")]

    def model(self, name: str) -> ModelVersion:
        return self.card

    def items(self, model: str, *, where: str = "", order_by: str = "") -> Iterator[Hit]:
        assert where == "label = false-alarm OR label = good"
        yield from self.labelled

    def dataset(self, name: str) -> Dataset:
        return _named(self.all_datasets, name)

    def job(self, job: Job | str) -> Job:
        return _named(self.all_jobs, str(job))

    def jobs(self, **options: object) -> Iterator[Job]:
        yield from self.all_jobs

    def models(self) -> Iterator[Model]:
        yield from self.all_models


def _named(messages: list[Named], name: str) -> Named:
    for message in messages:
        if message.name == name:
            return message
    raise NotFound("there is none", code=grpc.StatusCode.NOT_FOUND)


def test_labelled_images_are_counted_by_camera_and_other_dataset() -> None:
    plan = learn.read_plan(FakeClient(), "tile")
    assert plan.sources == [
        LabelledGood("left", False, 0, 1),
        LabelledGood("right", False, 1, 1),
        LabelledGood("other", True, 1, 0),
    ]
    assert (plan.false_alarms, plan.good, plan.in_dataset) == (2, 2, 1)


def test_settings_are_those_of_the_training_and_the_target_that_of_the_calibration() -> None:
    plan = learn.read_plan(FakeClient(), "tile")
    assert plan.has_settings
    assert plan.options == {
        "model_id": "tile",
        "false_alarms_of": "tile",
        "detector": PatchCore(neighbors=3),
        "seed": 7,
        "target_false_reject_rate": 0.02,
    }


@pytest.mark.parametrize("stored", [[], [Job(name="jobs/1", train=Train(seed=1))]])
def test_settings_are_defaults_if_the_job_is_gone_or_another_one(stored: list[Job]) -> None:
    client = FakeClient()
    client.all_jobs = stored
    plan = learn.read_plan(client, "tile")
    assert not plan.has_settings
    assert plan.options["detector"] == PatchCore()


def test_nothing_is_learned_without_labels_outside_of_the_dataset() -> None:
    client = FakeClient()
    client.labelled = client.labelled[-1:]
    with pytest.raises(CannotLearn, match="training dataset"):
        learn.read_plan(client, "tile")
    client.labelled = []
    with pytest.raises(CannotLearn, match="label some first"):
        learn.read_plan(client, "tile")


def test_mask_of_the_version_is_kept() -> None:
    client = FakeClient()
    client.card.mask.CopyFrom(FrameMask(width=1))
    assert learn.read_plan(client, "tile").options["mask_of"] == VERSION


def test_deleted_dataset_leads_to_the_command_line() -> None:
    client = FakeClient()
    client.all_datasets = []
    with pytest.raises(CannotLearn, match="blemish train DATASET --model-id tile --false-alarms-of tile"):
        learn.read_plan(client, "tile")


def test_newest_learning_job_of_the_same_model_is_found_again() -> None:
    client = FakeClient()
    client.all_jobs = [
        Job(name="jobs/5", train=Train(model_id="other", false_alarms_of="models/tile")),
        Job(name="jobs/4", train=Train(model_id="tile")),
        Job(name="jobs/3", train=Train(model_id="tile", false_alarms_of="models/tile/versions/1")),
        Job(name="jobs/2", train=Train(model_id="tile", false_alarms_of="models/tile")),
    ]
    found = learn.find_latest(client, "tile")
    assert found is not None
    assert found.name == "jobs/3"
    assert learn.find_latest(client, "grid") is None


@pytest.mark.parametrize(
    ("versions", "place"),
    [
        ([(2, ""), (1, "production")], Standing.NEW),
        ([(2, "shadow"), (1, "production")], Standing.SHADOW),
        ([(2, "production"), (1, "")], Standing.PRODUCTION),
        ([(3, "production"), (2, "")], Standing.OLDER),
        ([(2, "")], Standing.ALONE),
        ([(1, "production")], Standing.DELETED),
    ],
)
def test_offer_names_the_place_of_the_version(versions: list[tuple[int, str]], place: Standing) -> None:
    client = FakeClient()
    cards = [
        ModelVersion(
            name=f"models/tile/versions/{number}", production=role == "production", shadow=role == "shadow"
        )
        for number, role in versions
    ]
    client.all_models = [Model(name="models/tile", versions=cards)]
    result = JobResult(model_version="models/tile/versions/2")
    offer = learn.read_offer(client, Job(train=Train(), state=JOB_STATE_SUCCEEDED, result=result))
    assert offer is not None
    assert offer.standing == place


def test_failed_training_has_no_offer() -> None:
    assert learn.read_offer(FakeClient(), Job(train=Train(), state=JOB_STATE_FAILED)) is None
