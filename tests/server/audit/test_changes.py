# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Mapping
from typing import Any

import pytest

from blemish.v1 import dataset_pb2, job_pb2, model_pb2, search_pb2
from blemish_server.audit.changes import CHANGES, Facts

BY_NAME = {method.rpartition("/")[2]: describe for method, describe in CHANGES.items()}


def facts_of(action: str, *requests: Any, response: Any = None) -> Facts:
    facts = Facts()
    describe, describe_response = BY_NAME[action]
    for request in requests:
        describe(request, facts)
    if response is not None:
        describe_response(response, facts)
    return facts


@pytest.mark.parametrize(
    ("action", "request_", "resources", "details"),
    [
        ("CreateDataset", dataset_pb2.CreateDatasetRequest(dataset_id="tile"), ["datasets/tile"], {}),
        (
            "ImportDataset",
            dataset_pb2.ImportDatasetRequest(dataset_id="tile", path="/data/tile"),
            ["datasets/tile"],
            {"path": "/data/tile"},
        ),
        (
            "DeleteImages",
            dataset_pb2.DeleteImagesRequest(dataset="datasets/tile", paths=["test/crack/0.png"]),
            ["datasets/tile", "datasets/tile/test/crack/0.png"],
            {},
        ),
        (
            "MoveImages",
            dataset_pb2.MoveImagesRequest(
                dataset="datasets/tile", paths=["train/good/0.png"], folder="test/crack"
            ),
            ["datasets/tile", "datasets/tile/train/good/0.png"],
            {"folder": "test/crack"},
        ),
        (
            "UpdateDataset",
            dataset_pb2.UpdateDatasetRequest(name="datasets/tile", white_level=4095),
            ["datasets/tile"],
            {"white_level": "4095"},
        ),
        ("DeleteDataset", dataset_pb2.DeleteDatasetRequest(name="datasets/tile"), ["datasets/tile"], {}),
        (
            "CreateJob",
            job_pb2.CreateJobRequest(
                request_id="r",
                train=job_pb2.Train(
                    dataset="datasets/tile", model_id="t", promote=True, patchcore=job_pb2.PatchCore()
                ),
            ),
            ["datasets/tile", "models/t"],
            {"kind": "train", "detector": "patchcore", "promote": "true", "job_request": "r"},
        ),
        (
            "CreateJob",
            job_pb2.CreateJobRequest(embed=job_pb2.Embed(model="models/t", kept_frames=True)),
            ["models/t"],
            {"kind": "embed"},
        ),
        ("CreateJob", job_pb2.CreateJobRequest(), [], {}),
        ("CancelJob", job_pb2.CancelJobRequest(name="jobs/j"), ["jobs/j"], {}),
        (
            "PromoteModel",
            model_pb2.PromoteModelRequest(name="models/t/versions/2"),
            ["models/t/versions/2"],
            {},
        ),
        (
            "PinModel",
            model_pb2.PinModelRequest(name="models/t/versions/2"),
            ["models/t/versions/2"],
            {"pinned": "false"},
        ),
        (
            "ShadowModel",
            model_pb2.ShadowModelRequest(name="models/t/versions/2", shadow=True),
            ["models/t/versions/2"],
            {"shadow": "true"},
        ),
        (
            "DeleteModel",
            model_pb2.DeleteModelRequest(name="models/t", force=True),
            ["models/t"],
            {"force": "true"},
        ),
        (
            "UpdateCalibration",
            model_pb2.UpdateCalibrationRequest(
                name="models/t/versions/2", author="maria", comment="lamps", threshold=0.0
            ),
            ["models/t/versions/2"],
            {"author": "maria", "comment": "lamps", "threshold": "0.0"},
        ),
        (
            "LabelItem",
            search_pb2.LabelItemRequest(
                model="models/t", item="items/1", label=search_pb2.LABEL_CONFIRMED, label_class="crack"
            ),
            ["models/t", "items/1"],
            {"label": "confirmed", "label_class": "crack"},
        ),
    ],
)
def test_request_gives_its_resources_and_details(
    action: str, request_: Any, resources: list[str], details: Mapping[str, str]
) -> None:
    facts = facts_of(action, request_)
    assert list(facts.resources) == resources
    assert facts.details == details


def test_change_by_the_latest_version_names_its_number() -> None:
    request = model_pb2.PromoteModelRequest(name="models/t/versions/latest")
    version = model_pb2.ModelVersion(name="models/t/versions/2")
    facts = facts_of("PromoteModel", request, response=model_pb2.PromoteModelResponse(version=version))
    assert facts.resources == ("models/t/versions/latest", "models/t/versions/2")
    latest = job_pb2.Evaluate(model="models/t/versions/latest", dataset="datasets/tile")
    job = job_pb2.Job(name="jobs/j", evaluate=job_pb2.Evaluate(model="models/t/versions/2"))
    facts = facts_of(
        "CreateJob",
        job_pb2.CreateJobRequest(evaluate=latest),
        response=job_pb2.CreateJobResponse(job=job),
    )
    assert facts.resources == ("datasets/tile", latest.model, "models/t/versions/2", "jobs/j")


def test_label_of_a_newer_client_is_described_by_its_number() -> None:
    request = search_pb2.LabelItemRequest.FromString(b"\x18\x63")  # label = 99
    assert facts_of("LabelItem", request).details == {"label": "99"}


def test_upload_counts_images_and_keeps_no_bytes() -> None:
    image = dataset_pb2.UploadImagesRequest(
        image=dataset_pb2.ImageHeader(path="train/good/0.png", size_bytes=9)
    )
    chunk = dataset_pb2.UploadImagesRequest(chunk=b"secret")
    facts = facts_of(
        "UploadImages",
        dataset_pb2.UploadImagesRequest(dataset="datasets/tile"),
        *(image, chunk, image, chunk),
        response=dataset_pb2.UploadImagesResponse(stored=2),
    )
    assert facts.resources == ("datasets/tile",)
    assert facts.details == {"sent": "2", "stored": "2", "unchanged": "0"}


def test_import_of_a_model_names_the_new_version() -> None:
    version = model_pb2.ModelVersion(name="models/t/versions/4")
    facts = facts_of(
        "ImportModel",
        model_pb2.ImportModelRequest(header=model_pb2.ModelHeader(model_id="t", size_bytes=7)),
        model_pb2.ImportModelRequest(chunk=b"secret"),
        response=model_pb2.ImportModelResponse(version=version),
    )
    assert facts.resources == ("models/t", "models/t/versions/4")
    assert facts.details == {"size_bytes": "7"}


def test_new_job_is_named() -> None:
    response = job_pb2.CreateJobResponse(job=job_pb2.Job(name="jobs/j"))
    assert facts_of("CreateJob", job_pb2.CreateJobRequest(), response=response).resources == ("jobs/j",)


def test_facts_are_bounded() -> None:
    facts = facts_of("CreateDataset", dataset_pb2.CreateDatasetRequest(dataset_id="x" * (4 << 20)))
    assert len(facts.resources[0]) == 500
    paths = [f"test/crack/{number:0100}.png" for number in range(1000)]
    many = facts_of("DeleteImages", dataset_pb2.DeleteImagesRequest(dataset="datasets/tile", paths=paths))
    left_out = int(many.details["resources_left_out"])
    assert len(many.resources) + left_out == 1001
    assert sum(map(len, many.resources)) <= 60_000


def test_paths_beyond_the_most_of_a_request_are_not_read() -> None:
    request = dataset_pb2.DeleteImagesRequest(dataset="datasets/tile", paths=["test/a/0.png"] * 2_000_000)
    start_s = time.thread_time()
    facts = facts_of("DeleteImages", request)
    assert time.thread_time() - start_s < 0.1
    assert facts.resources == ("datasets/tile", "datasets/tile/test/a/0.png")
