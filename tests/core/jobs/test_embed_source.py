# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import pytest

from blemish_core.datasets.reading import ImageReader
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.embed_source import images_of
from blemish_core.jobs.record import EmbedSpec
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.names import ModelRef
from blemish_core.search.frame_store import FrameStore

FRAMES = EmbedSpec(model=str(ModelRef("tile", 2)), kept_frames=True)
ONE, TWO = "1" * 64, "a" * 64
NONE: Any = None


def test_kept_frames_of_the_model_and_no_other(tmp_path: Path) -> None:
    frames = FrameStore(tmp_path)
    frames.put("tile", TWO, b"second")
    frames.put("tile", ONE, b"first")
    frames.put("grid", ONE, b"of another model")
    (tmp_path / "tile/11/.staged").write_bytes(b"half")
    source, images = images_of(FRAMES, NONE, frames)
    assert [(image.sha256, source.read(image)) for image in images] == [(ONE, b"first"), (TWO, b"second")]
    assert {image.dataset for image in images} == {""}


def test_a_frame_that_went_meanwhile_is_left_out_and_told_of(tmp_path: Path) -> None:
    frames = FrameStore(tmp_path)
    for sha256 in (ONE, TWO):
        frames.put("tile", sha256, b"no image")
    source, images = images_of(FRAMES, NONE, frames)
    frames.remove("tile", ONE)
    reader = ImageReader(source, ImageLimits(), images)
    assert reader.read(images[0]) is None
    assert (reader.warning() or "").startswith("1 of 2 kept frames cannot be read")


def test_no_frames_are_none_to_embed(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="no frames are kept of models/tile"):
        images_of(FRAMES, NONE, FrameStore(tmp_path))
