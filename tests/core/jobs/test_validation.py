# SPDX-License-Identifier: Apache-2.0
"""A request that cannot succeed is rejected before it becomes a job."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.core.models.test_store import publish
from tests.support.job_context import make_job_context
from tests.support.manifests import make_manifest

from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, PatchCoreSpec, Spec, TrainSpec
from blemish_core.jobs.validation import validate_spec
from blemish_core.models import bundle
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
    return validate_spec(spec, context.datasets, context.frames, context.models, context.limits)


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


def png(width: int, height: int, shade: int) -> bytes:
    out = BytesIO()
    Image.new("L", (width, height), shade).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("path", ["train/good/3.png", "test/good/3.png"])
def test_mask_must_fit_every_image_of_the_dataset(context: JobContext, path: str) -> None:
    for number in range(3):
        context.datasets.add("tile", f"train/good/{number}.png", png(64, 32, number))
    mask = MaskSummary(sha256="a" * 64, width=128, height=64, ignored_share=0.5)
    spec = TrainSpec(dataset="tile", model_id="m", mask=mask)
    assert validated(context, spec) == spec
    context.datasets.add("tile", path, png(32, 32, 9))
    with pytest.raises(FailedPrecondition, match=f"{path} in datasets/tile is 32 x 32 px, but the mask"):
        validated(context, spec)


def test_evaluated_images_must_fit_the_mask_of_the_version(context: JobContext) -> None:
    mask = MaskSummary(sha256="a" * 64, width=128, height=64, ignored_share=0.5)

    def write(folder: Path, number: int) -> None:
        card = make_manifest("masked", number, "c").model_copy(update={"mask": mask, "format": 2})
        bundle.write_manifest(card, folder)

    context.models.publish("masked", "c", write)
    context.datasets.add("tile", "test/good/0.png", png(32, 32, 9))
    for spec in (
        EvaluateSpec(dataset="tile", model="models/masked"),
        EmbedSpec(dataset="tile", model="models/masked"),
    ):
        with pytest.raises(FailedPrecondition, match=r"test/good/0\.png in datasets/tile is 32 x 32 px"):
            validated(context, spec)
