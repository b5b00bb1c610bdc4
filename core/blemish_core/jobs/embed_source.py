# SPDX-License-Identifier: Apache-2.0
"""Which images a bulk embedding is of, and where their bytes are."""

from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.datasets.reading import ImageByteSource
from blemish_core.jobs.record import EmbedSpec
from blemish_core.platform.errors import Corrupt, FailedPrecondition, NotFound
from blemish_core.platform.names import ModelRef, dataset_name
from blemish_core.search.frame_store import FrameStore


def images_of(
    spec: EmbedSpec, datasets: DatasetStore, frames: FrameStore
) -> tuple[ImageByteSource, list[DatasetImage]]:
    """Return the images to embed, each content once, and what reads them.

    Raises:
        NotFound: if there is no such dataset.
        FailedPrecondition: if there are none.
    """
    if spec.kept_frames:
        model = ModelRef.parse(spec.model).model
        kept = [
            DatasetImage("", "", f"kept frame {sha256[:12]}", "test", "", sha256, 0, 0)
            for sha256 in frames.contents(model)
        ]
        if not kept:
            raise FailedPrecondition(f"no frames are kept of models/{model}; score some with a `store`")
        return _Frames(frames, model), kept
    contents = {image.sha256: image for image in datasets.images(spec.dataset, "test")}
    if not contents:
        raise FailedPrecondition(
            f"{dataset_name(spec.dataset)} has no test images to index; training images are left out, "
            "since a model scores what it learned from too well"
        )
    return datasets, list(contents.values())


class _Frames:
    def __init__(self, frames: FrameStore, model: str) -> None:
        self._frames = frames
        self._model = model

    def read(self, image: DatasetImage) -> bytes:
        try:
            return self._frames.read(self._model, image.sha256)
        except NotFound as error:  # it was kept for long enough meanwhile
            raise Corrupt(str(error)) from error
