# SPDX-License-Identifier: Apache-2.0
"""The images of a bulk embedding."""

from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.datasets.reading import ImageByteSource
from blemish_core.jobs.record import EmbedSpec
from blemish_core.platform.errors import Corrupt, FailedPrecondition, NotFound
from blemish_core.platform.names import ModelRef, dataset_name
from blemish_core.search.frame_store import FrameStore


def images_to_embed(
    spec: EmbedSpec, datasets: DatasetStore, frames: FrameStore
) -> tuple[ImageByteSource, list[DatasetImage]]:
    """Return the images to embed, each content once, and the source of their bytes.

    Raises:
        NotFound: if there is no such dataset.
        FailedPrecondition: if there are no images to embed.
    """
    if spec.kept_frames:
        model = ModelRef.parse(spec.model).model
        stored = [
            DatasetImage("", "", f"kept frame {sha256[:12]}", "test", "", sha256, 0, 0)
            for sha256 in frames.contents(model)
        ]
        if not stored:
            raise FailedPrecondition(
                f"no frames are stored for models/{model}; score some with `store` set"
            )
        return _StoredFrames(frames, model), stored
    by_content = {image.sha256: image for image in datasets.images(spec.dataset, "test")}
    if not by_content:
        raise FailedPrecondition(
            f"{dataset_name(spec.dataset)} has no test images to index; upload some (training images are "
            "not indexed, because a model scores them too low)"
        )
    return datasets, list(by_content.values())


class _StoredFrames:
    def __init__(self, frames: FrameStore, model: str) -> None:
        self._frames = frames
        self._model = model

    def read(self, image: DatasetImage) -> bytes:
        try:
            return self._frames.read(self._model, image.sha256)
        except NotFound as error:  # its retention time ended after the listing
            raise Corrupt(str(error)) from error
