# SPDX-License-Identifier: Apache-2.0
"""A request that cannot succeed is rejected before it becomes a job."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.core.models.test_store import publish
from tests.support.job_context import make_job_context
from tests.support.manifests import make_manifest
from tests.support.moving_part import STILL, seen, texture

from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.record import (
    EfficientAdSpec,
    EmbedSpec,
    EvaluateSpec,
    PatchCoreSpec,
    Spec,
    TrainSpec,
)
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
    return validate_spec(
        spec, context.datasets, context.frames, context.models, context.weights, context.limits
    )


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


@pytest.fixture
def tile(context: JobContext) -> JobContext:
    """Upload three good images of 64 x 32 px."""
    for number in range(3):
        context.datasets.add("tile", f"train/good/{number}.png", png(64, 32, number))
    return context


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (TrainSpec(dataset="tile", model_id="m", patchcore=PatchCoreSpec(backbone="resnet18")), "resnet18"),
        (
            TrainSpec(dataset="tile", model_id="m", efficientad=EfficientAdSpec(size="medium")),
            "no teacher for EfficientAD medium",
        ),
    ],
)
def test_training_without_weights_is_rejected_and_names_the_import(
    tile: JobContext, spec: TrainSpec, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tile.weights))
    with pytest.raises(FailedPrecondition, match=f"{reason}.*`blemish weights import"):
        validated(tile, spec)


@pytest.mark.parametrize("detector", [PatchCoreSpec(), EfficientAdSpec()])
def test_weights_of_the_default_detectors_are_installed(
    tile: JobContext, detector: PatchCoreSpec | EfficientAdSpec
) -> None:
    name = "patchcore" if isinstance(detector, PatchCoreSpec) else "efficientad"
    spec = TrainSpec.model_validate({"dataset": "tile", "model_id": "m", name: detector})
    assert validated(tile, spec) == spec


def test_defect_larger_than_the_images_is_rejected(tile: JobContext) -> None:
    spec = TrainSpec(dataset="tile", model_id="m", patchcore=PatchCoreSpec(smallest_defect=33))
    with pytest.raises(InvalidRequest, match="must be 1 px to 32 px") as error:
        validated(tile, spec)
    assert error.value.field == "patchcore.smallest_defect"


def test_copies_of_one_image_are_too_few(context: JobContext) -> None:
    for number in range(3):
        context.datasets.add("tile", f"train/good/{number}.png", png(64, 32, 7))
    with pytest.raises(
        FailedPrecondition, match="the 3 images in train/good of datasets/tile are copies of 1"
    ):
        validated(context, TrainSpec(dataset="tile", model_id="m"))


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


def aligned_training(context: JobContext, reference: str, *, flat: bool = False) -> TrainSpec:
    """Upload three images of a part, and return a training whose mask moves with it."""
    for number in range(3):
        shown = (
            np.full((64, 96, 3), 40 + number, np.uint8) if flat else seen(texture(number), STILL, (64, 96))
        )
        out = BytesIO()
        Image.fromarray(shown).save(out, "PNG")
        context.datasets.add("tile", f"train/good/{number}.png", out.getvalue())
    looks = np.ones((64, 96), np.bool_)
    looks[:8] = False
    mask = FrameMask(looks)
    context.models.keep_mask(mask.to_png(), mask.summary().sha256)
    summary = mask.summary().model_copy(update={"reference": reference})
    return TrainSpec(dataset="tile", model_id="m", mask=summary)


@pytest.mark.parametrize(
    ("reference", "path"),
    [("", "train/good/0.png"), ("2.png", "train/good/2.png"), ("train/good/1.png", "train/good/1.png")],
)
def test_reference_is_resolved_to_an_image_of_the_dataset(
    context: JobContext, reference: str, path: str
) -> None:
    spec = validated(context, aligned_training(context, reference))
    assert isinstance(spec, TrainSpec)
    assert spec.mask is not None
    assert spec.mask.reference == path


@pytest.mark.parametrize(
    ("reference", "error", "reason"),
    [
        ("9.png", NotFound, r"datasets/tile has no train/good/9\.png"),
        ("train/bad/0.png", InvalidRequest, "contains only good images"),
        ("ground_truth/crack/0.png", InvalidRequest, "is not an image of a part"),
    ],
)
def test_reference_outside_of_the_dataset_is_rejected(
    context: JobContext, reference: str, error: type[Exception], reason: str
) -> None:
    spec = aligned_training(context, reference)
    with pytest.raises(error, match=reason) as caught:
        validated(context, spec)
    if isinstance(caught.value, InvalidRequest):
        assert caught.value.field == "train.mask.alignment.reference"


def test_reference_without_details_is_rejected(context: JobContext) -> None:
    with pytest.raises(FailedPrecondition, match=r"too uniform where the mask looks"):
        validated(context, aligned_training(context, "", flat=True))
