# SPDX-License-Identifier: Apache-2.0
"""A request that cannot succeed is rejected before it becomes a job."""

from pathlib import Path

import pytest
from tests.core.models.test_store import publish
from tests.support.job_context import make_job_context

from blemish_core.jobs.context import JobContext
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, PatchCoreSpec, Spec, TrainSpec
from blemish_core.jobs.validation import validate_spec
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    """Make a store with an empty dataset tile and two versions of model m, the first in production."""
    context = make_job_context(tmp_path)
    context.datasets.create("tile", "")
    first = publish(context.models, "m", "a")
    publish(context.models, "m", "b")
    context.models.promote(ModelRef("m", first.version))
    return context


def validated(context: JobContext, spec: Spec) -> Spec:
    return validate_spec(spec, context.datasets, context.frames, context.models)


def test_model_is_resolved_to_its_production_version(context: JobContext) -> None:
    context.frames.put("m", "f" * 64, b"frame")
    spec = validated(context, EmbedSpec(model="models/m", kept_frames=True))
    assert spec.model_dump()["model"] == "models/m/versions/1"


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (TrainSpec(dataset="none", model_id="m"), NotFound),
        (TrainSpec(dataset="tile", model_id="m"), FailedPrecondition),
        (TrainSpec(dataset="tile", model_id="not a name"), InvalidRequest),
        (
            TrainSpec(dataset="tile", model_id="m", patchcore=PatchCoreSpec(coreset_ratio=2.0)),
            InvalidRequest,
        ),
        (EvaluateSpec(dataset="tile", model="models/m"), FailedPrecondition),
        (EmbedSpec(dataset="tile", model="models/m"), FailedPrecondition),
        (EmbedSpec(kept_frames=True, model="models/m"), FailedPrecondition),
        (EmbedSpec(kept_frames=True, model="models/none"), NotFound),
    ],
)
def test_request_that_cannot_succeed_is_rejected(
    context: JobContext, spec: Spec, error: type[Exception]
) -> None:
    with pytest.raises(error):
        validated(context, spec)
