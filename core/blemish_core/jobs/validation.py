# SPDX-License-Identifier: Apache-2.0
"""Validation of a request before it becomes a job, so that it fails at once and not after hours."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from blemish_core.calibration import checked_false_reject_rate
from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import size_mismatch
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.embed_source import images_to_embed
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Spec, TrainSpec
from blemish_core.jobs.training_mask import read_mask, with_reference
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef, dataset_name, validate_id
from blemish_core.search.frame_store import FrameStore


def validate_spec(
    spec: Spec,
    datasets: DatasetStore,
    frames: FrameStore,
    models: ModelStore,
    weights: Path,
    limits: ImageLimits,
) -> Spec:
    """Validate a specification and return it with its model resolved to a version.

    The reference of a mask is resolved to an image of the dataset.

    Args:
        spec: specification as requested.
        datasets: store of the images.
        frames: store of kept frames.
        models: store of models and masks.
        weights: folder of imported weights.
        limits: limits on the reference of a mask.

    Raises:
        InvalidRequest: if a setting is out of range or does not fit the images, or a name is malformed.
        NotFound: if there is no such dataset, model or reference.
        FailedPrecondition: if there are too few images, weights are not available, or no frame can be
            aligned to the reference.
    """
    match spec:
        case TrainSpec():
            _validate_training(spec, datasets.images(spec.dataset, "train"), models, weights)
            _validate_mask(spec.mask, datasets.images(spec.dataset))
            spec = with_reference(spec, datasets)
            if spec.mask is not None and spec.mask.reference is not None:
                read_mask(spec, datasets, models, limits)  # raises if no frame can be aligned
            return spec
        case EmbedSpec(kept_frames=True):
            version = models.resolve(ModelRef.parse(spec.model, "model"))
            images_to_embed(spec, datasets, frames)  # raises if there are none
        case EmbedSpec() | EvaluateSpec():
            if not datasets.get(spec.dataset).test_images:
                raise FailedPrecondition(
                    f"{dataset_name(spec.dataset)} has no images in test/; upload some"
                )
            version = models.resolve(ModelRef.parse(spec.model, "model"))
            _validate_mask(models.manifest(version).mask, datasets.images(spec.dataset, "test"))
    return spec.model_copy(update={"model": str(version)})


def _validate_training(
    spec: TrainSpec, images: Sequence[DatasetImage], models: ModelStore, weights: Path
) -> None:
    algorithm = ALGORITHMS[spec.detector]
    settings = algorithm.settings(**spec.settings)  # validates its arguments
    validate_id(spec.model_id, "model_id")
    checked_false_reject_rate(spec.target_false_reject_rate)
    _validate_count(spec, images)
    if spec.false_alarms_of:
        models.resolve(ModelRef.parse(spec.false_alarms_of, "train.false_alarms_of"))
    algorithm.check(settings, [(image.height, image.width) for image in images], weights)


def _validate_count(spec: TrainSpec, images: Sequence[DatasetImage]) -> None:
    """Check that there are enough training images, of which equal files count once."""
    algorithm, name = ALGORITHMS[spec.detector], dataset_name(spec.dataset)
    if len(images) < algorithm.min_images:
        raise FailedPrecondition(
            f"{name} has {len(images)} images in train/good, but {algorithm.title} needs at least "
            f"{algorithm.min_images}; upload more"
        )
    different = len({image.sha256 for image in images})
    if different < algorithm.min_images:
        raise FailedPrecondition(
            f"the {len(images)} images in train/good of {name} are copies of {different}, but "
            f"{algorithm.title} needs at least {algorithm.min_images} different ones; upload more"
        )


def _validate_mask(mask: MaskSummary | None, images: Iterable[DatasetImage]) -> None:
    """Check that a mask fits every image."""
    if mask is None:
        return
    for image in images:
        if reason := size_mismatch((image.height, image.width), (mask.height, mask.width)):
            raise FailedPrecondition(f"{image.shown} in {dataset_name(image.dataset)} {reason}")
