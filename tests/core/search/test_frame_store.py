# SPDX-License-Identifier: Apache-2.0

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.platform.errors import NotFound
from blemish_core.search.frame_store import FrameStore, encode_image

LIMITS = ImageLimits()


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_frame_is_read_until_it_is_removed(tmp_path: Path) -> None:
    frames, data = FrameStore(tmp_path), png(1)
    sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(NotFound, match="is not stored"):
        frames.read("tile", sha256)
    for _ in range(2):
        frames.put("tile", sha256, data)
    assert frames.read("tile", sha256) == data
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [sha256]
    for _ in range(2):
        frames.remove("tile", sha256)
    with pytest.raises(NotFound):
        frames.read("tile", sha256)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_only_digests_name_files(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        FrameStore(tmp_path).put("tile", sha256, b"")


def test_encoded_image_is_stored_unchanged() -> None:
    assert encode_image(ImageInput(png(2)), LIMITS) == png(2)


def test_raw_image_and_region_are_stored_as_their_pixels() -> None:
    samples = np.random.default_rng(3).integers(0, 256, (30, 40), dtype=np.uint8)
    raw = ImageInput(samples.tobytes(), RawLayout("Mono8", 40, 30), Region(2, 3, 20, 17))
    np.testing.assert_array_equal(decode(encode_image(raw, LIMITS), LIMITS), raw.pixels(LIMITS))
    assert raw.pixels(LIMITS).shape == (17, 20, 3)
