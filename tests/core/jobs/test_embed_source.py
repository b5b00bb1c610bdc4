# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest

from blemish_core.datasets import DatasetStore
from blemish_core.datasets.reading import ImageReader
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.embed_source import images_to_embed
from blemish_core.jobs.record import EmbedSpec
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef
from blemish_core.search.frame_store import FrameStore

STORED_FRAMES = EmbedSpec(model=str(ModelRef("tile", 2)), kept_frames=True)
ONE, TWO = "1" * 64, "a" * 64


@pytest.fixture
def datasets(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", ImageLimits())


@pytest.fixture
def frames(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path / "frames")


def test_only_stored_frames_of_the_model_are_embedded(
    datasets: DatasetStore, frames: FrameStore, tmp_path: Path
) -> None:
    frames.put("tile", TWO, b"second")
    frames.put("tile", ONE, b"first")
    frames.put("grid", ONE, b"of another model")
    (tmp_path / "frames/tile/11/.staged").write_bytes(b"half")
    source, images = images_to_embed(STORED_FRAMES, datasets, frames)
    assert [(image.sha256, source.read(image)) for image in images] == [(ONE, b"first"), (TWO, b"second")]
    assert {image.dataset for image in images} == {""}


def test_frame_deleted_after_the_listing_is_skipped_with_a_warning(
    datasets: DatasetStore, frames: FrameStore
) -> None:
    for sha256 in (ONE, TWO):
        frames.put("tile", sha256, b"not an image")
    source, images = images_to_embed(STORED_FRAMES, datasets, frames)
    frames.remove("tile", ONE)
    reader = ImageReader(source, ImageLimits(), images)
    assert reader.read(images[0]) is None
    assert (reader.warning() or "").startswith("1 of 2 kept frames cannot be read")


def test_model_without_stored_frames_is_rejected(datasets: DatasetStore, frames: FrameStore) -> None:
    with pytest.raises(FailedPrecondition, match="no frames are stored for models/tile"):
        images_to_embed(STORED_FRAMES, datasets, frames)


def test_dataset_without_test_images_is_rejected(datasets: DatasetStore, frames: FrameStore) -> None:
    datasets.create("tile", "")
    spec = EmbedSpec(model=str(ModelRef("tile", 2)), dataset="tile")
    with pytest.raises(FailedPrecondition, match="datasets/tile has no test images to index"):
        images_to_embed(spec, datasets, frames)
