# SPDX-License-Identifier: Apache-2.0
"""The mask of a training, with the reference image that frames are aligned to."""

from blemish_core.datasets import DatasetStore
from blemish_core.datasets.layout import GOOD, LayoutPath
from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.jobs.record import TrainSpec
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import InvalidRequest, NotFound
from blemish_core.platform.names import dataset_name

_FIELD = "train.mask.alignment.reference"


def with_reference(spec: TrainSpec, datasets: DatasetStore) -> TrainSpec:
    """Return a training with the layout path of its reference, which may be a name or empty in a request.

    Raises:
        InvalidRequest: if the reference is not a path of a training or test image.
        NotFound: if the dataset has no such image.
    """
    mask = spec.mask
    if mask is None or mask.reference is None:
        return spec
    images = datasets.images(spec.dataset)
    paths = [image.path for image in images]
    path = mask.reference or next(path for path in paths if path.startswith("train/"))
    if "/" not in path:
        path = f"train/{GOOD}/{path}"
    if path not in paths:
        path = next((image.path for image in images if image.original == path), path)
    try:
        location = LayoutPath.parse(path)
    except InvalidRequest as error:
        raise InvalidRequest(str(error), field=_FIELD) from error
    if location.part == "ground_truth":
        raise InvalidRequest(f"{path} is not an image of a part; name one in train/ or test/", field=_FIELD)
    if path not in paths:
        raise NotFound(
            f"{dataset_name(spec.dataset)} has no {path}, to which frames are to be aligned; name an image "
            "of the dataset, or leave the reference out"
        )
    return spec.model_copy(update={"mask": mask.model_copy(update={"reference": path})})


def read_mask(
    spec: TrainSpec,
    datasets: DatasetStore,
    models: ModelStore,
    limits: ImageLimits,
    level: WhiteLevel | None = None,
) -> FrameMask | None:
    """Return the mask of a training, None for all pixels.

    Args:
        spec: the training, with the path of its reference.
        datasets: store of the reference.
        models: store of the mask.
        limits: limits on the reference.
        level: white level of the reference.

    Raises:
        NotFound: if the mask or the reference was deleted.
        Corrupt: if one of them was changed.
        FailedPrecondition: if no frame can be aligned to the reference.
    """
    if spec.mask is None:
        return None
    mask = FrameMask.from_png(models.mask(spec.mask.sha256))
    if spec.mask.reference is None:
        return mask
    reference = decode(datasets.read_path(spec.dataset, spec.mask.reference), limits, level)
    return mask.aligned_to(reference)
