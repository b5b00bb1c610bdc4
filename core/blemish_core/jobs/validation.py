# SPDX-License-Identifier: Apache-2.0
"""What can be known of a job before it is accepted, so that it fails at the door and not in the night."""

from blemish_core.calibration import checked_false_reject_rate
from blemish_core.datasets import DatasetStore
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.jobs.embed_source import images_of
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Spec, TrainSpec
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef, dataset_name, validate_id
from blemish_core.search.frame_store import FrameStore


def validate_spec(spec: Spec, datasets: DatasetStore, frames: FrameStore, models: ModelStore) -> Spec:
    """Return ``spec`` with its model fixed to the version that its name means now.

    Raises:
        InvalidRequest: if a setting is out of range or a name malformed.
        NotFound: if there is no such dataset or model.
        FailedPrecondition: if the dataset has too few images.
    """
    if isinstance(spec, EmbedSpec) and spec.kept_frames:
        version = models.resolve(ModelRef.parse(spec.model, "model"))
        images_of(spec, datasets, frames)
        return spec.model_copy(update={"model": str(version)})
    dataset = datasets.get(spec.dataset)
    match spec:
        case TrainSpec():
            algorithm = ALGORITHMS[spec.detector]
            algorithm.settings(**spec.settings)
            validate_id(spec.model_id, "model_id")
            checked_false_reject_rate(spec.target_false_reject_rate)
            if dataset.train_images < algorithm.min_images:
                raise FailedPrecondition(
                    f"{dataset_name(spec.dataset)} has {dataset.train_images} images in train/good, but "
                    f"{algorithm.title} learns from at least {algorithm.min_images}; upload more"
                )
            if spec.false_alarms_of:
                models.resolve(ModelRef.parse(spec.false_alarms_of, "train.false_alarms_of"))
            return spec
        case EmbedSpec() | EvaluateSpec():
            if not dataset.test_images:
                raise FailedPrecondition(
                    f"{dataset_name(spec.dataset)} has no images in test/; upload some"
                )
            version = models.resolve(ModelRef.parse(spec.model, "model"))
            return spec.model_copy(update={"model": str(version)})
